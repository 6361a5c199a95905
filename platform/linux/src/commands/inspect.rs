use std::io::Write;

use rill::image::{Ffn, Image, Layer, Manifest, Mixer, Resident, Section};
use rill::kernels::{self, CpuFeatures};
use rill::plan::KvFormat;
use rill::size::Size;
use serde_json::{Map, Value, json};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::terminal::stdout;

/// Show what is in an image
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// List the tables of functions that this CPU can run, best first
    #[arg(long)]
    kernels: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rill inspect -m model.rill
  rill inspect --kernels";

pub fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.open()?;
    let facts = Facts::of(&model.image);
    let tables: Vec<_> = kernels::all(CpuFeatures::detect()).map(|table| table.name).collect();
    let mut out = stdout();
    if args.json {
        let mut value = facts.as_json(&model.image);
        if args.kernels {
            value["kernels"] = tables.into();
        }
        serde_json::to_writer_pretty(&mut out, &value).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else if args.kernels {
        tables.iter().try_for_each(|name| writeln!(out, "{name}"))?;
    } else {
        facts.print(&model.image, &mut out)?;
    }
    Ok(())
}

/// How many weights a model has, those of every expert included.
pub(super) fn parameters(manifest: &Manifest) -> u64 {
    let shape = &manifest.shape;
    let [hidden, vocab, experts, expert_ff, dense_ff, head_dim] =
        [shape.hidden, shape.vocab, shape.experts, shape.expert_ff, shape.dense_ff, shape.head_dim]
            .map(u64::from);
    let [q_dim, kv_dim] = [shape.heads, shape.kv_heads].map(|heads| u64::from(heads) * head_dim);
    let layers: u64 = manifest
        .layers
        .iter()
        .map(|layer| {
            let mixer = match layer.mixer {
                Mixer::Conv { .. } => (4 * hidden + u64::from(shape.conv_width)) * hidden,
                Mixer::Attention { .. } => 2 * hidden * (q_dim + kv_dim) + 2 * head_dim,
            };
            let ffn = match layer.ffn {
                Ffn::Dense { .. } => 3 * hidden * dense_ff,
                Ffn::Moe => {
                    let bias = if shape.expert_bias { experts } else { 0 };
                    experts * (hidden + 3 * hidden * expert_ff) + bias
                }
            };
            2 * hidden + mixer + ffn
        })
        .sum();
    let heads = if manifest.head.is_some() { 2 } else { 1 };
    heads * vocab * hidden + hidden + layers
}

/// The formats of matrices in the resident section: runs of layers that have the same.
fn formats(manifest: &Manifest) -> Vec<(String, String)> {
    let of_layer = |layer: &Layer| {
        let (mixer, [input, output]) = match layer.mixer {
            Mixer::Conv { in_proj, out_proj } => ("convolution", [in_proj, out_proj]),
            Mixer::Attention { qkv, out_proj } => ("attention", [qkv, out_proj]),
        };
        let formats = format!("{mixer} in {input:?}, out {output:?}");
        match layer.ffn {
            Ffn::Dense { gate_up, down } => {
                format!("{formats}; dense gate and up {gate_up:?}, down {down:?}")
            }
            Ffn::Moe => formats,
        }
    };
    let all: Vec<String> = manifest.layers.iter().map(of_layer).collect();
    let mut first = 0;
    let runs = all.chunk_by(|a, b| a == b).map(|run| {
        let last = first + run.len() - 1;
        let name =
            if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        first = last + 1;
        (name, run[0].clone())
    });
    runs.collect()
}

/// What follows from an image's header and manifest.
struct Facts {
    parameters: u64,
    /// Bytes of the keys and values of one token, in each format.
    kv_bytes: [u64; KvFormat::ALL.len()],
    /// Bytes of one bank: the experts of a layer.
    bank_bytes: u64,
    cycle_pages: u64,
}

impl Facts {
    fn of(image: &Image) -> Self {
        let manifest = &image.manifest;
        let shape = &manifest.shape;
        Self {
            parameters: parameters(manifest),
            kv_bytes: KvFormat::ALL.map(|format| format.token_bytes(manifest) as u64),
            bank_bytes: u64::from(shape.experts) * image.header.page_len,
            cycle_pages: manifest.banks() as u64 * u64::from(shape.top_k),
        }
    }

    fn print(&self, image: &Image, out: &mut impl Write) -> std::io::Result<()> {
        let manifest = &image.manifest;
        let shape = &manifest.shape;
        let mut line = |name: &str, value: String| writeln!(out, "{name:<18} {value}");
        line("model", manifest.name.to_string())?;
        line("parameters", format!("{:.2} M", self.parameters as f64 / 1e6))?;
        line("file", Size(image.header.file_len).to_string())?;
        line(
            "layers",
            format!(
                "{}: {} attention, {} convolution",
                manifest.layers.len(),
                manifest.attention_layers(),
                manifest.conv_layers()
            ),
        )?;
        line("width", format!("{}, vocabulary {}", shape.hidden, shape.vocab))?;
        line(
            "heads",
            format!("{} of {}, {} for keys", shape.heads, shape.head_dim, shape.kv_heads),
        )?;
        line("longest context", format!("{} tokens", shape.max_context))?;
        let [f16, int8] = self.kv_bytes.map(Size);
        line("keys and values", format!("{f16} a token, {int8} in int8"))?;
        line("embedding", format!("{:?}", manifest.embedding))?;
        if let Some(head) = manifest.head {
            line("output head", format!("{head:?}"))?;
        }
        for (layers, formats) in formats(manifest) {
            line(&layers, formats)?;
        }
        for section in Section::ALL {
            let span = image.header.span(section);
            line(section.name(), format!("{} at {}", Size(span.len), span.offset))?;
        }
        if manifest.banks() > 0 {
            line(
                "experts",
                format!(
                    "{} banks of {}, width {}, {} a token, {:?} and {:?}",
                    manifest.banks(),
                    shape.experts,
                    shape.expert_ff,
                    shape.top_k,
                    manifest.page_gate_up,
                    manifest.page_down
                ),
            )?;
            line("an expert", Size(image.header.page_len).to_string())?;
            line("a bank", Size(self.bank_bytes).to_string())?;
            let cycle = self.cycle_pages * image.header.page_len;
            line("a token uses", format!("{} experts, {}", self.cycle_pages, Size(cycle)))?;
        }
        line("chat format", format!("{:?}", manifest.chat.template))
    }

    fn as_json(&self, image: &Image) -> Value {
        let manifest = &image.manifest;
        let sections: Map<String, Value> = Section::ALL
            .iter()
            .map(|&section| {
                let span = image.header.span(section);
                let checksum = format!("{:016x}", span.checksum);
                let value = json!({ "offset": span.offset, "len": span.len, "checksum": checksum });
                (section.name().into(), value)
            })
            .collect();
        let [kv_bytes, kv_bytes_int8] = self.kv_bytes;
        let (_, resident) = Resident::of(manifest, |_, _| {});
        json!({
            "manifest": manifest,
            "parameters": self.parameters,
            "file_bytes": image.header.file_len,
            "sections": sections,
            "resident_bytes": resident,
            "page_bytes": image.header.page_len,
            "pages": manifest.pages(),
            "banks": manifest.banks(),
            "bank_bytes": self.bank_bytes,
            "cycle_pages": self.cycle_pages,
            "cycle_bytes": self.cycle_pages * image.header.page_len,
            "kv_bytes_per_token": kv_bytes,
            "kv_bytes_per_token_int8": kv_bytes_int8,
        })
    }
}
