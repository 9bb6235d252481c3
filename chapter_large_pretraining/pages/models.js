// The chapter's GPT, BERT and T5, as in utils.py. A vector is an array of
// numbers, a sequence an array of vectors. `p` holds parameters by the names
// that they have in PyTorch, and `c` is the configuration.

// ---- Arithmetic

function dot(a, b, from = 0, to = a.length) {
  let sum = 0;
  for (let i = from; i < to; i++) sum += a[i] * b[i];
  return sum;
}

const plus = (X, Y) => X.map((x, i) => x.map((value, j) => value + Y[i][j]));

function softmax(scores) {
  const most = Math.max(...scores);
  const powers = scores.map(score => Math.exp(score - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map(power => power / total);
}

// the error function, by a series whose terms all have one sign
function erf(x) {
  if (Math.abs(x) > 5) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 3; Math.abs(term) > 1e-12 * Math.abs(sum); n += 2) {
    term *= 2 * x * x / n;
    sum += term;
  }
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

const activations = {
  relu: x => Math.max(0, x),
  gelu: x => x * (1 + erf(x / Math.SQRT2)) / 2,
  gelu_tanh: x =>
    x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))) / 2,
};

// ---- Blocks

const linear = ({ weight, bias }, X) => X.map(x => {
  const y = new Float64Array(weight.length);
  for (let i = 0; i < y.length; i++)
    y[i] = dot(weight[i], x) + (bias ? bias[i] : 0);
  return y;
});

function norm({ weight, bias }, c, X) {
  return X.map(x => {
    const mean = c.rms_norm ? 0 : x.reduce((a, b) => a + b) / x.length;
    const centered = x.map(value => value - mean);
    const size = Math.sqrt(dot(centered, centered) / x.length + c.norm_eps);
    return centered.map(
      (value, i) => value / size * weight[i] + (bias ? bias[i] : 0));
  });
}

// queries (part 0), keys (1) or values (2) of all heads, beside each other
function project({ W_qkv: { weight, bias } }, X, part) {
  const wide = weight.length / 3, rows = [part * wide, (part + 1) * wide];
  return linear(
    { weight: weight.slice(...rows), bias: bias && bias.slice(...rows) }, X);
}

// Keys and values are those of a memory, by default of X. `sees(i, j)` is the
// mask, `bias(head, i, j)` is added to the scores, a cache keeps keys and
// values, and `seen` collects weights: [head][query][key].
function attention(p, c, X, { memory, sees = () => true, bias = () => 0,
                              cache = { K: [], V: [] }, seen = [] }) {
  const Q = project(p, X, 0), { K, V } = cache;
  if (!memory || !K.length) {  // else it has taken in the memory
    K.push(...project(p, memory ?? X, 1));
    V.push(...project(p, memory ?? X, 2));
  }
  const d = c.head_width, heads = [];
  const Y = X.map(() => new Float64Array(c.num_heads * d));
  for (let h = 0; h < c.num_heads; h++) {
    heads.push(Q.map((q, i) => softmax(K.map((k, j) => sees(i, j)
      ? dot(q, k, h * d, (h + 1) * d) * c.scale + bias(h, i, j)
      : -Infinity))));
    heads[h].forEach((weights, i) => weights.forEach((weight, j) => {
      for (let n = h * d; n < (h + 1) * d; n++) Y[i][n] += weight * V[j][n];
    }));
  }
  seen.push(heads);
  return linear(p.W_o, Y);
}

function feedForward(p, c, X) {
  const H = linear(p[0], X);
  return linear(p[2], H.map(h => h.map(activations[c.activation])));
}

function residual(p, c, X, layer) {
  return c.pre_norm
    ? plus(X, layer(norm(p.norm, c, X)))
    : norm(p.norm, c, plus(X, layer(X)));
}

// `own` are the inputs of self-attention, `other` those of cross-attention
function block(p, c, X, own, other) {
  X = residual(p.attention, c, X,
               H => attention(p.attention.layer, c, H, own));
  if (other)
    X = residual(p.cross_attention, c, X,
                 H => attention(p.cross_attention.layer, c, H, other));
  return residual(p.ffn, c, X, H => feedForward(p.ffn.layer, c, H));
}

const blocks = p => Object.values(p.blks);
const finalNorm = (p, c, X) => c.pre_norm ? norm(p.norm, c, X) : X;
const embed = ({ weight }, ids) => ids.map(id => Float64Array.from(weight[id]));
const upTo = n => [...Array(n).keys()];

// ---- GPT: scores of the token that follows the last one

function gpt({ p, c }, ids, seen = []) {
  let H = plus(embed(p.token_embedding, ids),
               embed(p.pos_embedding, upTo(ids.length)));
  for (const blk of blocks(p))
    H = block(blk, c, H, { sees: (i, j) => j <= i, seen });
  H = finalNorm(p, c, H.slice(-1));
  return linear(p.head ?? p.token_embedding, H)[0];
}

// ---- BERT: scores of the token at one place

function bert({ p, c }, ids, segments, place, seen = []) {
  let H = plus(embed(p.token_embedding, ids),
               embed(p.segment_embedding, segments));
  H = plus(H, embed(p.pos_embedding, upTo(ids.length)));
  H = norm(p.embedding_norm, c, H);
  for (const blk of blocks(p)) H = block(blk, c, H, { seen });
  H = finalNorm(p, c, [H[place]]);
  if (c.mlm_transform) {
    H = linear(p.mlm.transform[0], H);
    H = H.map(h => h.map(activations[c.activation]));
    H = norm(p.mlm.transform[2], c, H);
  }
  const { weight = p.token_embedding.weight, bias } = p.mlm.decoder;
  return linear({ weight, bias }, H)[0];
}

// ---- T5: the encoder reads, the decoder writes a token at a time

// a number for each bucket of the distance from query to key
function relativeBias({ relative_bias: { table } }, buckets, start = 0) {
  return (h, i, j) => {
    const bucket = buckets[j - i - start + (buckets.length - 1) / 2];
    return table.weight[bucket][h];
  };
}

function encode({ p: { token_embedding, encoder }, c }, ids) {
  let H = embed(token_embedding, ids);
  const bias = relativeBias(encoder, c.buckets.encoder);
  for (const blk of blocks(encoder)) H = block(blk, c, H, { bias });
  return finalNorm(encoder, c, H);
}

const newCaches = ({ p }) => blocks(p.decoder).map(() =>
  [{ K: [], V: [] }, { K: [], V: [] }]);

// scores of the token after `id`, which is the next one for the caches
function decode({ p, c }, id, memory, caches, seen = []) {
  let H = embed(p.token_embedding, [id]);
  const start = caches[0][0].K.length;
  const bias = relativeBias(p.decoder, c.buckets.decoder, start);
  blocks(p.decoder).forEach((blk, i) => {
    const [cache, memoryCache] = caches[i];
    H = block(blk, c, H, { bias, cache },
              { memory, cache: memoryCache, seen });
  });
  H = finalNorm(p.decoder, c, H);
  if (!p.head)  // rows made as inputs are long for scores
    H = [H[0].map(value => value * c.num_hiddens ** -0.5)];
  return linear(p.head ?? p.token_embedding, H)[0];
}

// ---- Weights: integers, packed, each tensor with its scale

async function load({ config, tensors, weights }) {
  const packed = Uint8Array.from(atob(weights), x => x.charCodeAt(0));
  const stream = new Blob([packed]).stream()
    .pipeThrough(new DecompressionStream('deflate'));
  const buffer = await new Response(stream).arrayBuffer(), p = {};
  let at = 0;
  for (const [name, shape, bits, scale] of tensors) {
    const size = shape.reduce((a, b) => a * b), next = at + size * bits / 8;
    const type = bits === 8 ? Int8Array : Int16Array;
    const integers = new type(buffer.slice(at, next));
    const values = Float32Array.from(integers, x => x * scale);
    const path = name.split('.'), last = path.pop();
    const place = path.reduce((node, key) => node[key] ??= {}, p);
    place[last] = shape.length === 1 ? values : upTo(shape[0]).map(
      i => values.subarray(i * shape[1], (i + 1) * shape[1]));
    at = next;
  }
  return { p, c: config };
}
