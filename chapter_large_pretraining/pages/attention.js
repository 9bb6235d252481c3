// The view of attention weights, of which the explorer is made. `explore`
// shows weights, in thousandths: maps[blk][head] has a row for each query.
const get = id => document.getElementById(id);
const add = (parent, tag, text = '') => {
  const node = parent.appendChild(document.createElement(tag));
  node.textContent = text;
  return node;
};
const chosen = { blk: 0, head: 0, query: 0 };
const colors = getComputedStyle(document.documentElement);
const shade = weight =>
  `rgba(${colors.getPropertyValue('--shade')}, ${weight / 1000})`;
let queries = [], keys = [], maps = [], heard = () => {};

function explore(view, onChoose = () => {}) {
  ({ queries, keys, maps } = view);
  heard = onChoose;
  if (!get('heads').children.length) addHeads();
  addTokens();
  paint();
  choose({ query: view.query ?? 0 });
}

function addHeads() {
  const width = Math.max(56, 18 * Math.sqrt(keys.length));
  get('heads').style.gridTemplateColumns =
    `repeat(${maps[0].length}, minmax(0, ${width}px))`;
  maps.forEach((heads, blk) => heads.forEach((_, head) => {
    const label = add(get('heads'), 'label');
    const input = add(label, 'input');
    input.type = 'radio';
    input.name = 'head';
    input.checked = blk === chosen.blk && head === chosen.head;
    input.setAttribute('aria-label', `block ${blk + 1}, head ${head + 1}`);
    input.onchange = () => choose({ blk, head });
    const map = add(label, 'div');
    map.className = 'map';
    add(map, 'canvas');
    add(map, 'div').className = 'row';
    add(label, 'span', `${blk + 1}.${head + 1}`);
  }));
}

function addTokens() {
  get('queries').replaceChildren();
  get('keys').replaceChildren();
  queries.forEach((token, query) => {
    const button = add(get('queries'), 'button', token);
    button.onmouseenter = button.onfocus = button.onclick =
      () => choose({ query });
  });
  keys.forEach(token => {
    const key = add(get('keys'), 'span', token);
    key.setAttribute('role', 'listitem');
    add(key, 'small');
  });
}

function paint() {
  const color = colors.getPropertyValue('--shade').split(',').map(Number);
  document.querySelectorAll('canvas').forEach((canvas, i) => {
    canvas.width = keys.length;
    canvas.height = queries.length;
    const pen = canvas.getContext('2d');
    const image = pen.createImageData(canvas.width, canvas.height);
    maps.flat()[i].forEach((weight, j) =>
      image.data.set([...color, 0.255 * weight], 4 * j));
    pen.putImageData(image, 0, 0);
  });
}

function choose(change) {
  Object.assign(chosen, change);
  const { blk, head, query } = chosen;
  const start = query * keys.length;
  const weights = [...maps[blk][head].slice(start, start + keys.length)];
  for (const mark of document.querySelectorAll('.row')) {
    mark.style.top = `${100 * query / queries.length}%`;
    mark.style.height = `${100 / queries.length}%`;
  }
  [...get('queries').children].forEach((button, i) =>
    button.setAttribute('aria-pressed', i === query));
  [...get('keys').children].forEach((key, i) => {
    key.style.background = shade(0.55 * weights[i]);  // text stays legible
    key.lastChild.textContent = (weights[i] / 1000).toFixed(2);
  });
  const most = weights.map((weight, i) => [weight, i])
    .sort((a, b) => b[0] - a[0]).slice(0, 3).filter(pair => pair[0] >= 1)
    .map(([weight, i]) => `“${keys[i]}” ${(weight / 1000).toFixed(2)}`);
  get('summary').textContent = `Block ${blk + 1}, head ${head + 1}: `
    + `“${queries[query]}” looks at ${most.join(', ') || 'nothing'}.`;
  heard(query);
}

get('queries').onkeydown = event => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const next = get('queries').children[chosen.query + step[event.key]];
  if (event.key in step) event.preventDefault();
  if (next) next.focus();
};
matchMedia('(prefers-color-scheme: dark)').onchange = () => {
  if (!maps.length) return;
  paint();
  choose({});
};

// the frame takes the height of its content
new ResizeObserver(() => {
  if (window.frameElement)
    frameElement.style.height =
      `${document.documentElement.offsetHeight + 2}px`;
}).observe(document.body);
