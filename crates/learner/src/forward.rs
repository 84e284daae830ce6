//! The forward pass of a Llama-style decoder, as `transformers`' `LlamaForCausalLM` computes it.
//!
//! B sequences, T tokens, N = B·T, D width, H query heads, K key and value heads, G = H/K queries
//! per key, W width of a head, F feed-forward width, V vocabulary.

use crate::schedule::float;
use atoll_protocol::charter::Model;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::sigmoid, module::embedding};

/// Tensors per decoder layer, in layout order.
const PER_LAYER: usize = 9;
/// Added to the score of a later token.
const MASKED: f32 = -1e9;
/// The least score beside the greatest.
const SCORE_MIN: f32 = -60.0;

/// What depends on T alone: rotations and the causal mask.
pub(crate) struct Tables {
    /// T.
    pub(crate) sequence: usize,
    /// Cosine and sine for queries (1, 1, T, W), already divided by √W.
    queries: [Tensor<4>; 2],
    /// Cosine and sine for keys (1, 1, T, W).
    keys: [Tensor<4>; 2],
    /// 0 where a token may look, [`MASKED`] where not (1, 1, G·T, T).
    mask: Tensor<4>,
}

impl Tables {
    pub(crate) fn new(model: &Model, sequence: usize, device: &Device) -> Self {
        let (width, half) = (model.head_width as usize, model.head_width as usize / 2);
        let groups = (model.heads / model.kv_heads) as usize;
        // RoPE (arXiv:2104.09864) in the half-split order of `transformers`: coordinate j turns with
        // coordinate j + W/2.
        let angle = |index: usize| {
            let (t, j) = (index / width, index % width % half);
            t as f64 * f64::from(model.rope_theta).powf(-2.0 * j as f64 / width as f64)
        };
        let table = |scale: f64, of: fn(f64) -> f64| {
            let values: Vec<f32> = (0..sequence * width).map(|i| (scale * of(angle(i))) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, sequence, width]), device)
        };
        let scale = 1.0 / (width as f64).sqrt();
        let allowed = |index: usize| index % sequence <= index / sequence % sequence;
        let mask: Vec<f32> = (0..groups * sequence * sequence)
            .map(|index| if allowed(index) { 0.0 } else { MASKED })
            .collect();
        Self {
            sequence,
            queries: [table(scale, f64::cos), table(scale, f64::sin)],
            keys: [table(1.0, f64::cos), table(1.0, f64::sin)],
            mask: Tensor::from_data(TensorData::new(mask, [1, 1, groups * sequence, sequence]), device),
        }
    }
}

/// x · wᵀ for w stored as `[out, in]`.
fn linear(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    x.matmul(weight.clone().transpose())
}

/// RMSNorm (arXiv:1910.07467) with a gain (1, D).
fn rms_norm(x_nd: Tensor<2>, gain_1d: &Tensor<2>, eps: f64) -> Tensor<2> {
    let scale_n1 = (x_nd.clone().square().mean_dim(1) + eps).sqrt().recip();
    x_nd * scale_n1 * gain_1d.clone()
}

/// Turns each pair (j, j + W/2) by its position's angle.
fn rotate(x_bhtw: Tensor<4>, [cos, sin]: &[Tensor<4>; 2]) -> Tensor<4> {
    let half = x_bhtw.dims()[3] / 2;
    let low = x_bhtw.clone().narrow(3, 0, half);
    let high = x_bhtw.clone().narrow(3, half, half);
    x_bhtw * cos.clone() + Tensor::cat(vec![high.neg(), low], 3) * sin.clone()
}

/// Causal attention. Softmax is normalised after the product with the values: T·W divisions in place
/// of T·T, and the row's greatest score is a constant of which the result does not depend, so
/// nothing flows back through it.
fn attention(model: &Model, tables: &Tables, h_nd: Tensor<2>, weights: &[Tensor<2>]) -> Tensor<2> {
    let (heads, kv_heads, width) = (model.heads as usize, model.kv_heads as usize, model.head_width as usize);
    let (n, t) = (h_nd.dims()[0], tables.sequence);
    let (b, groups) = (n / t, heads / kv_heads);
    let split = |x: Tensor<2>, heads: usize| x.reshape([b, t, heads, width]).swap_dims(1, 2);

    let q_bhtw = rotate(split(linear(h_nd.clone(), &weights[0]), heads), &tables.queries);
    let k_bktw = rotate(split(linear(h_nd.clone(), &weights[1]), kv_heads), &tables.keys);
    let v_bktw = split(linear(h_nd, &weights[2]), kv_heads);

    // The G query heads of one key head stand next to each other, so they are one tall matrix.
    let q_bkgtw = q_bhtw.reshape([b, kv_heads, groups * t, width]);
    let scores = q_bkgtw.matmul(k_bktw.swap_dims(2, 3)) + tables.mask.clone();
    let greatest = scores.clone().detach().max_dim(3);
    // below e^-60 a share is nothing beside the greatest, and `exp` takes several times as long where it underflows
    let shares = (scores - greatest).clamp_min(SCORE_MIN).exp();
    let total = shares.clone().sum_dim(3);
    let out_bkgtw = shares.matmul(v_bktw) * total.recip();
    let out_bhtw = out_bkgtw.reshape([b, heads, t, width]);
    linear(out_bhtw.swap_dims(1, 2).reshape([n, heads * width]), &weights[3])
}

/// SwiGLU (arXiv:2002.05202).
fn feed_forward(h_nd: Tensor<2>, weights: &[Tensor<2>]) -> Tensor<2> {
    let gate_nf = linear(h_nd.clone(), &weights[0]);
    let up_nf = linear(h_nd, &weights[1]);
    linear(gate_nf.clone() * sigmoid(gate_nf) * up_nf, &weights[2])
}

/// The normalised residual stream (N, D) behind the last layer. `weights` stand in layout order,
/// gains as (1, D).
pub(crate) fn hidden(model: &Model, weights: &[Tensor<2>], tables: &Tables, tokens_bt: Tensor<2, Int>) -> Tensor<2> {
    let [b, t] = tokens_bt.dims();
    let eps = float(model.norm_eps);
    let mut x_nd: Tensor<2> = embedding(weights[0].clone(), tokens_bt).reshape([b * t, model.width as usize]);
    let (layers, rest) = weights[1..].split_at(PER_LAYER * model.layers as usize);
    for layer in layers.chunks_exact(PER_LAYER) {
        let h_nd = rms_norm(x_nd.clone(), &layer[0], eps);
        x_nd = x_nd + attention(model, tables, h_nd, &layer[1..5]);
        let h_nd = rms_norm(x_nd.clone(), &layer[5], eps);
        x_nd = x_nd + feed_forward(h_nd, &layer[6..9]);
    }
    rms_norm(x_nd, &rest[0], eps)
}

/// Logits (N, V) from [`hidden`]'s result.
pub(crate) fn head(weights: &[Tensor<2>], model: &Model, h_nd: Tensor<2>) -> Tensor<2> {
    let head_vd = if model.tied { weights.first() } else { weights.last() };
    match head_vd {
        Some(head_vd) => linear(h_nd, head_vd),
        None => h_nd,
    }
}
