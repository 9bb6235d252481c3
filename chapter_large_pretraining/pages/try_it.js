// ---- Words

const data = JSON.parse(get('data').textContent);
const vocabulary = data.words.split(' ');
const ids = new Map(vocabulary.map((word, id) => [word, id]));
const idsOf = words => words.map(word => ids.get(word));
const isSpecial = word => /^<\w+>$|^{}$/.test(word);
const offered = vocabulary.filter(word => !isSpecial(word));
const wordOf = ({ id }) => vocabulary[id];

// the id of a word that a reader may write, also with a capital
function idOf(word) {
  if (isSpecial(word) && !kind.marks?.includes(word)) return undefined;
  return ids.get(word) ?? ids.get(word.toLowerCase());
}

// The words of a text, and where they stand. Marks that end a word are words
// of their own, unless all of it is a word.
function read(text) {
  const parts = /<\w+>|->|[.,;:!?]|[^.,;:!?]+/gu;
  return [...text.matchAll(/\S+/gu)].flatMap(({ 0: piece, index }) =>
    (idOf(piece) === undefined ? [...piece.matchAll(parts)]
                               : [{ 0: piece, index: 0 }]).map(
      part => ({ word: part[0], index: index + part.index,
                 id: idOf(part[0]) })));
}

// how many letters to change, add or remove
function distance(a, b) {
  let row = upTo(b.length + 1);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(Math.min(row[j] + 1, next[j - 1] + 1,
                         row[j - 1] + (a[i - 1] !== b[j - 1])));
    row = next;
  }
  return row[b.length];
}

function nearest(word) {
  const start = word.slice(0, 24).toLowerCase();
  const cost = other => other.startsWith(start)
    ? (other.length - start.length) / 99
    : distance(start, other.toLowerCase());
  return offered.map(other => [cost(other), other])
    .sort((a, b) => a[0] - b[0]).slice(0, 3).map(pair => pair[1]);
}

// ---- What each kind of model is asked, and what it answers

// tasks that explain the examples are equally probable (Bayes' rule)
function bestPossible(tokens) {
  const colon = tokens.indexOf(':'), items = [];
  const list = tokens.slice(colon + 1).join(' ');
  const form = /^(?:[^\s;]+ -> [^\s;]+ ; )*[^\s;]+ ->$/;
  if (!data.tasks || !form.test(list)) return null;
  for (const item of list.split(' ; ')) items.push(item.split(/ ->\s?/));
  const [query] = items.pop();
  const told = colon < 0 ? null : tokens.slice(0, colon + 1).join(' ');
  const left = data.tasks.filter(({ description, facts }) =>
    (told === null || told === description) && facts.has(query)
    && items.every(([asked, reply]) => facts.get(asked) === reply));
  const shares = new Map();
  for (const { facts } of left) {
    const reply = facts.get(query);
    shares.set(reply, (shares.get(reply) ?? 0) + 1 / left.length);
  }
  return { shares, left: left.map(({ description }) => description) };
}

const flat = seen => seen.map(heads => heads.map(
  rows => rows.flat().map(weight => 1000 * weight)));

const kinds = {
  gpt: {
    ask: 'Write examples and a question, in the form of the lists',
    reply: 'What comes next',
    run(model, found) {
      const tokens = ['<bos>', ...found.map(wordOf)];
      const seen = [];
      const probs = softmax(gpt(model, idsOf(tokens), seen));
      return { probs: [probs], queries: tokens, keys: tokens,
               query: tokens.length - 1, maps: flat(seen),
               best: bestPossible(tokens.slice(1)) };
    },
  },
  bert: {
    ask: 'Write a sentence',
    marks: ['<mask>', '<sep>'],
    reply: 'What may stand there',
    run(model, found) {
      const tokens = ['<bos>', ...found.map(wordOf),
                      '<sep>'];
      const place = askedPlace(found) + 1, seen = [];
      tokens[place] = '<mask>';
      const second = tokens.map((_, i) =>
        tokens.slice(0, i).includes('<sep>') ? 1 : 0);
      const probs = softmax(bert(model, idsOf(tokens), second, place, seen));
      return { probs: [probs], queries: tokens, keys: tokens, query: place,
               maps: flat(seen) };
    },
  },
  t5: {
    ask: 'Write a text',
    reply: 'What it writes',
    run(model, found) {
      const { prefix } = chosenPrefix();
      const keys = [...prefix.split(' '),
                    ...found.map(wordOf)];
      const memory = encode(model, idsOf(keys));
      const caches = newCaches(model), queries = [], probs = [], steps = [];
      for (let id = 0; queries.length < 24;) {
        const seen = [];
        probs.push(softmax(decode(model, id, memory, caches, seen)));
        steps.push(seen);
        id = probs.at(-1).indexOf(Math.max(...probs.at(-1)));
        queries.push(vocabulary[id]);
        if (queries.at(-1) === '<eos>') break;
      }
      // from steps of one query to [block][head][query][key]
      const seen = steps[0].map((heads, blk) => heads.map((_, head) =>
        steps.map(step => step[blk][head][0])));
      return { probs, queries, keys, query: 0, maps: flat(seen),
               written: queries.filter(x => x !== '<eos>').join(' ') };
    },
  },
};
const kind = kinds[data.kind];

// ---- The page

const text = get('text');
let model, hidden = null;
[chosen.blk, chosen.head] = data.head;

const chosenPrefix = () => ({
  prefix: document.querySelector('#prefixes input:checked')?.value });

// which word BERT is asked for: the hidden one, or the first written <mask>
function askedPlace(found) {
  return hidden !== null && hidden < found.length
    ? hidden : found.findIndex(({ word }) => word === '<mask>');
}

function mark(found) {
  const parts = [];
  let end = 0;
  for (const { word, index, id } of found.slice(0, 400)) {
    if (id !== undefined) continue;
    const bad = document.createElement('mark');
    bad.textContent = word;
    parts.push(text.value.slice(end, index), bad);
    end = index + word.length;
  }
  get('marks').replaceChildren(...parts, text.value.slice(end) + '\n');
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight + 2}px`;
  get('marks').scrollTop = text.scrollTop;
}

const short = word => word.length > 24
  ? `${[...word].slice(0, 24).join('')}…` : word;

function complain(found) {
  const notes = get('notes');
  notes.replaceChildren();
  const unknown = found.filter(({ id }) => id === undefined);
  text.setAttribute('aria-invalid', unknown.length > 0);
  for (const { word, index } of unknown.slice(0, 2)) {
    add(notes, 'span', `“${short(word)}” is none of its `
        + `${offered.length} words. Nearest:`);
    for (const other of nearest(word)) {
      const button = add(notes, 'button', other);
      button.setAttribute('aria-label',
                          `${other} instead of ${short(word)}`);
      button.onclick = () => {
        text.value = text.value.slice(0, index) + other
          + text.value.slice(index + word.length);
        update();
        text.focus();
      };
    }
  }
  if (unknown.length > 2)
    add(notes, 'span', `And ${unknown.length - 2} more.`);
  else if (!unknown.length && found.length > data.max_words)
    add(notes, 'span', `At most ${data.max_words} words; these are ${found.length}.`);
  else if (!found.length)
    add(notes, 'span', 'Nothing is written yet.');
  else if (!unknown.length && data.kind === 'bert' && askedPlace(found) < 0)
    add(notes, 'span', 'Choose a word below to hide it.');
  return notes.children.length > 0;
}

function showWords(found) {
  if (data.kind !== 'bert') return;
  const focused = [...get('words').children].indexOf(document.activeElement);
  get('words').replaceChildren();
  found.slice(0, data.max_words).forEach(({ word }, i) => {
    const button = add(get('words'), 'button', short(word));
    button.setAttribute('aria-pressed', i === askedPlace(found));
    button.onclick = () => {
      hidden = hidden === i ? null : i;
      update();
    };
  });
  get('words').children[focused]?.focus();
}

function bars(list, pairs) {
  list.replaceChildren();
  for (const [word, p] of pairs) {
    const item = add(list, 'li');
    add(item, 'span', word);
    add(item, 'i').style.width = `${100 * p}%`;
    add(item, 'b', p.toFixed(2));
  }
}

const top5 = probs => [...probs.keys()]
  .sort((a, b) => probs[b] - probs[a]).slice(0, 5)
  .map(id => [vocabulary[id], probs[id]]);

function update() {
  const found = read(text.value);
  mark(found);
  showWords(found);
  const stuck = complain(found);
  get('results').classList.toggle('stale', stuck);
  get('results').inert = stuck;
  if (stuck) return;
  const result = kind.run(model, found);
  get('answer').textContent = result.written ?? top5(result.probs[0])
    .slice(0, 3).map(([word, p]) => `${word} ${p.toFixed(2)}`).join(', ');
  if (data.kind !== 't5') bars(get('guesses'), top5(result.probs[0]));
  get('best-part').hidden = !result.best;
  if (result.best) {
    const { shares, left } = result.best;
    bars(get('best'), [...shares].sort((a, b) => b[1] - a[1]).slice(0, 5));
    get('explained').textContent = left.length
      ? `What explains the examples: ${left.join(' or ')}`.replace(/ :/g, '')
      : 'No task that it knows explains the examples.';
  }
  explore(result, query => {
    if (data.kind !== 't5') return;
    get('guesses-name').textContent =
      `Guesses in the place of “${result.queries[query]}”`;
    bars(get('guesses'), top5(result.probs[query]));
  });
}

// an example may begin with a prefix, and hides a word in [brackets]
function start(example) {
  const radios = [...document.querySelectorAll('#prefixes input')];
  const radio = radios.find(({ value }) => example.startsWith(`${value} `));
  if (radio) {
    radio.checked = true;
    example = example.slice(radio.value.length + 1);
  }
  const before = example.split('[')[0];
  hidden = before === example ? null : read(before).length;
  text.value = example.replace(/[[\]]/g, '');
  update();
}

function prepare() {
  for (const task of data.tasks ?? []) {
    const pairs = task.facts.split(' '), facts = new Map();
    for (let i = 0; i < pairs.length; i += 2)
      facts.set(pairs[i], pairs[i + 1]);
    task.facts = facts;
  }
  get('text-name').textContent = kind.ask;
  get('answer-name').textContent = kind.reply;
  get('guesses-name').textContent = 'Its guesses';
  get('words-part').hidden = data.kind !== 'bert';
  get('prefixes').hidden = data.prefixes.length === 0;
  data.prefixes.forEach((prefix, i) => {
    const label = add(get('prefixes'), 'label'), radio = add(label, 'input');
    label.className = 'choice';
    Object.assign(radio, { type: 'radio', name: 'prefix', value: prefix,
                           checked: i === 0, onchange: update });
    label.append(prefix.replace(/ :$/, ''));
  });
  for (const example of data.examples)
    add(get('examples'), 'button', example.replace(/[[\]]/g, ''))
      .onclick = () => start(example);
  text.oninput = update;
  text.onscroll = () => { get('marks').scrollTop = text.scrollTop; };
  window.onresize = () => mark(read(text.value));
}

const ready = load(data).then(loaded => {
  model = loaded;
  prepare();
  start(data.examples[0]);
}).catch(error => {
  document.querySelector('main').textContent =
    `This browser cannot unpack the model (${error.message}).`;
});
