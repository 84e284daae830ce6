//! Names and files of the Hugging Face formats. They stop here.

use super::CheckpointError;
use crate::schedule::float;
use atoll_protocol::{Hash, Nano, charter::Model};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const GENERATION_CONFIG: &str = "generation_config.json";
/// Every file of a checkpoint folder, sorted.
pub const FILES: [&str; 5] = [CONFIG, GENERATION_CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG];
/// The index of weights in several files, which are not read.
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const HEAD: &str = "lm_head.weight";

/// The Hugging Face name of the tensor that [`atoll_protocol::Layout`] calls `name`.
pub(super) fn tensor_name(name: &str) -> String {
    let name = match name {
        "embedding" => return "model.embed_tokens.weight".into(),
        "norm" => return "model.norm.weight".into(),
        "head" => return HEAD.into(),
        name => name,
    };
    let parts = [
        ("attention.norm", "input_layernorm"),
        ("attention.query", "self_attn.q_proj"),
        ("attention.key", "self_attn.k_proj"),
        ("attention.value", "self_attn.v_proj"),
        ("attention.output", "self_attn.o_proj"),
        ("ffn.norm", "post_attention_layernorm"),
        ("ffn.gate", "mlp.gate_proj"),
        ("ffn.up", "mlp.up_proj"),
        ("ffn.down", "mlp.down_proj"),
    ];
    let found = parts
        .iter()
        .find_map(|(ours, theirs)| Some((name.strip_suffix(ours)?, theirs)));
    match found {
        Some((layer, theirs)) => format!("model.{layer}{theirs}.weight"),
        None => format!("model.{name}"),
    }
}

/// Whether a file may hold this tensor although no layout has it.
pub(super) fn is_surplus(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (tied && name == HEAD)
}

/// Both `rope_parameters` and `rope_theta`, `dtype` and `torch_dtype`: transformers 5 reads the
/// first, older readers the second.
pub(super) fn config(model: &Model, eos: u32) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": eos,
        "dtype": "float32",
        "eos_token_id": eos,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "hidden_size": model.width,
        "initializer_range": 0.02,
        "intermediate_size": model.ffn,
        "max_position_embeddings": model.context,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "num_key_value_heads": model.kv_heads,
        "rms_norm_eps": float(model.norm_eps),
        "rope_parameters": {"rope_theta": f64::from(model.rope_theta), "rope_type": "default"},
        "rope_theta": f64::from(model.rope_theta),
        "tie_word_embeddings": model.tied,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": model.vocab,
    })
}

/// `generation_config.json` and `tokenizer_config.json`. The end of text pads, so that texts of
/// different lengths make a batch. `config.json` does not say so: `transformers` would take the row of
/// a `pad_token_id` there out of training. Without `max_length` a reader's own limit holds.
pub(super) fn companions(model: &Model, eos: u32, eos_text: &str) -> [(&'static str, Value); 2] {
    let generation = json!({
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": eos,
    });
    let tokenizer = json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": eos_text,
        "clean_up_tokenization_spaces": false,
        "eos_token": eos_text,
        "model_max_length": model.context,
        "pad_token": eos_text,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    [(GENERATION_CONFIG, generation), (TOKENIZER_CONFIG, tokenizer)]
}

/// What is read of a foreign `config.json`; it has many more fields.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    attention_bias: bool,
    head_dim: Option<u32>,
    #[serde(default = "silu")]
    hidden_act: String,
    hidden_size: u32,
    intermediate_size: u32,
    max_position_embeddings: u32,
    #[serde(default)]
    mlp_bias: bool,
    num_attention_heads: u32,
    num_hidden_layers: u32,
    num_key_value_heads: Option<u32>,
    rms_norm_eps: f64,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Value>,
    rope_theta: Option<f64>,
    #[serde(default)]
    tie_word_embeddings: bool,
    vocab_size: u32,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

fn silu() -> String {
    "silu".into()
}

/// Fields of a charter's model and what `config.json` calls them.
const FIELDS: [(&str, &str); 8] = [
    ("model.vocab", "vocab_size"),
    ("model.width", "hidden_size"),
    ("model.layers", "num_hidden_layers"),
    ("model.heads", "num_attention_heads"),
    ("model.kv_heads", "num_key_value_heads"),
    ("model.head_width", "head_dim"),
    ("model.ffn", "intermediate_size"),
    ("model.context", "max_position_embeddings"),
];

/// What a charter would refuse, before anything is allocated by these sizes.
pub(super) fn check_sizes(model: &Model) -> Result<(), CheckpointError> {
    model.validate().map_err(|error| {
        let field = FIELDS.iter().find(|(ours, _)| *ours == error.field);
        let field = field.map_or(error.field.as_str(), |(_, theirs)| theirs);
        CheckpointError::Foreign {
            file: CONFIG,
            reason: format!("{field} = {}: {}", error.value, error.allowed),
        }
    })
}

/// The sizes in a `config.json`. Hashes are zero: the caller has the files they are of.
pub(super) fn model_of(bytes: &[u8]) -> Result<Model, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Foreign { file: CONFIG, reason };
    let config: Config = serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
    let only = |holds: bool, what: String| if holds { Ok(()) } else { Err(refuse(what)) };
    only(
        config.architectures == ["LlamaForCausalLM"],
        format!(
            "architectures = {:?}: only LlamaForCausalLM is read",
            config.architectures
        ),
    )?;
    only(
        config.hidden_act == "silu",
        format!("hidden_act = {}: only silu is read", config.hidden_act),
    )?;
    only(
        !config.attention_bias && !config.mlp_bias,
        "biases are not supported".into(),
    )?;
    only(config.rope_scaling.is_none(), "rope_scaling is not supported".into())?;
    let rope = config.rope_parameters.as_ref();
    let kind = rope.and_then(|rope| rope.rope_type.as_deref()).unwrap_or("default");
    only(kind == "default", format!("rope_type = {kind}: only default is read"))?;
    let rope_theta = rope
        .and_then(|rope| rope.rope_theta)
        .or(config.rope_theta)
        .unwrap_or(10_000.0);
    only(
        rope_theta.fract() == 0.0 && (2.0..=f64::from(u32::MAX)).contains(&rope_theta),
        format!("rope_theta = {rope_theta}: whole numbers from 2 to 2^32 - 1 are read"),
    )?;
    let heads = config.num_attention_heads;
    only(heads > 0, "num_attention_heads = 0".into())?;
    let nano = (config.rms_norm_eps * 1e9).round();
    only(
        (1.0..=1e7).contains(&nano),
        format!("rms_norm_eps = {}: from 1e-9 to 0.01 is read", config.rms_norm_eps),
    )?;
    Ok(Model {
        vocab: config.vocab_size,
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_width: config.head_dim.unwrap_or(config.hidden_size / heads),
        ffn: config.intermediate_size,
        context: config.max_position_embeddings,
        rope_theta: rope_theta as u32,
        norm_eps: Nano(nano as u64),
        tied: config.tie_word_embeddings,
        theta: Hash::ZERO,
        tokenizer: Hash::ZERO,
    })
}
