//! What became of each tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rill::image::layout::Format;
use rill::image::{Header, Manifest, Section, page_shape};

use crate::calibrate::Report as Calibration;
use crate::matrix::{Joint, Loss, is_exact};
use crate::mix::Report as Mix;
use crate::options::Options;
use crate::stored::Stored;

/// The groups of weights that options speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The pages.
    Experts,
    /// Projections and dense feed-forward parts.
    Dense,
    /// Token embedding and output head.
    Embedding,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Experts, Self::Dense, Self::Embedding];

    /// Its name, as in the options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Experts => "experts",
            Self::Dense => "dense",
            Self::Embedding => "embedding",
        }
    }
}

/// What became of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorReport {
    /// Which option it listens to.
    pub class: Class,
    /// Its encoding in the source.
    pub stored: Stored,
    /// Its format in the image.
    pub format: Format,
    /// Relative root mean square of the rounding; `None` when every value is exactly kept.
    pub relative_rms: Option<f64>,
    loss: Loss,
}

/// What became of each matrix tensor, by name. Norms, router and convolution are always kept
/// exactly, in f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// By the source's name.
    pub tensors: BTreeMap<String, TensorReport>,
}

impl Report {
    /// Notes the parts of a matrix; parts of one tensor are one entry.
    pub(crate) fn add(&mut self, class: Class, joint: &Joint<'_>, losses: &[Loss]) {
        let format = joint.shape.format;
        for (part, loss) in joint.parts.iter().zip(losses) {
            let new = TensorReport {
                class,
                stored: part.stored,
                format,
                relative_rms: None,
                loss: Loss::default(),
            };
            let entry = self.tensors.entry(part.name.clone()).or_insert(new);
            entry.loss.add(*loss);
            if !is_exact(part.stored, format) {
                entry.relative_rms = Some(entry.loss.relative_rms());
            }
        }
    }

    /// The tensors of a class.
    fn of(&self, class: Class) -> impl Iterator<Item = (&String, &TensorReport)> {
        self.tensors.iter().filter(move |(_, tensor)| tensor.class == class)
    }

    /// Relative root mean square of a class's rounding, over the weights that were rounded; `None`
    /// when none were.
    pub fn relative_rms(&self, class: Class) -> Option<f64> {
        let mut sum = Loss::default();
        let mut rounded = self.of(class).filter(|(_, t)| t.relative_rms.is_some()).peekable();
        rounded.peek()?;
        rounded.for_each(|(_, tensor)| sum.add(tensor.loss));
        Some(sum.relative_rms())
    }

    /// The tensor of a class that lost most.
    pub fn worst(&self, class: Class) -> Option<(&str, f64)> {
        self.of(class)
            .filter_map(|(name, tensor)| Some((name.as_str(), tensor.relative_rms?)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// A packed image.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where its sections lie.
    pub header: Header,
    /// Its model.
    pub manifest: Manifest,
    /// What became of each tensor.
    pub report: Report,
    /// What was asked for.
    pub options: Options,
    /// How formats were chosen, where a size was asked for instead.
    pub mix: Option<Mix>,
    /// What calibration gained, when there was one.
    pub calibration: Option<Calibration>,
    /// How the checkpoint's chat template was understood.
    pub chat: String,
    /// What was left aside or assumed.
    pub notes: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let manifest = &self.manifest;
        let [resident, pages] =
            [Section::Resident, Section::Pages].map(|section| self.header.span(section));
        writeln!(f, "{}: {:.1} MiB", manifest.name, mib(self.header.file_len))?;
        writeln!(
            f,
            "resident {:.1} MiB, {} pages of {:.2} MiB ({:.1} MiB)",
            mib(resident.len),
            manifest.pages(),
            mib(self.header.page_len),
            mib(pages.len)
        )?;
        for class in Class::ALL {
            self.fmt_class(f, class)?;
        }
        self.fmt_twice_rounded(f)?;
        if let Some(mix) = &self.mix {
            write!(f, "{mix}")?;
        }
        if let Some(calibration) = &self.calibration {
            write!(f, "{calibration}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        write!(f, "chat: {}", self.chat)
    }
}

/// About what rounding to int8 costs, relative to the weights' root mean square.
const Q8_ROUNDING: &str = "0.5 %";

impl Summary {
    /// Says of weights that came with few bits and were rounded to int4 again what int8 would keep.
    fn fmt_twice_rounded(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for class in Class::ALL {
            let twice = self.report.of(class).filter(|(_, tensor)| {
                let rounded = tensor.relative_rms.is_some() && tensor.format == Format::Q4;
                rounded && tensor.stored.is_quantised()
            });
            let kinds: BTreeSet<_> = twice.map(|(_, tensor)| tensor.stored.name()).collect();
            if kinds.is_empty() {
                continue;
            }
            let (name, kinds) = (class.name(), Vec::from_iter(kinds).join(", "));
            write!(
                f,
                "{name:<10}      {kinds} had been rounded before, and q4 rounds a second time; \
                 --{name} q8 would lose about {Q8_ROUNDING}"
            )?;
            let larger = Manifest {
                page_gate_up: Format::Q8,
                page_down: Format::Q8,
                ..self.manifest.clone()
            };
            match page_shape(&larger) {
                Some(shape) if class == Class::Experts => {
                    let mib = shape.bytes() as f64 / f64::from(1 << 20);
                    writeln!(f, ", with pages of {mib:.2} MiB")?;
                }
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }

    fn fmt_class(&self, f: &mut fmt::Formatter<'_>, class: Class) -> fmt::Result {
        let asked = match class {
            Class::Experts => self.options.experts,
            Class::Dense => self.options.dense,
            Class::Embedding => self.options.embedding,
        };
        // How many tensors went which way.
        let mut ways = BTreeMap::new();
        for (_, tensor) in self.report.of(class) {
            let exact = tensor.relative_rms.is_none();
            *ways.entry((tensor.stored, tensor.format.name(), exact)).or_insert(0) += 1;
        }
        for ((stored, format, exact), count) in ways {
            let kept = match exact {
                true if self.mix.is_none() && format != asked.name() => {
                    format!("exact; {} would keep no more or lose some", asked.name())
                }
                true => "exact".into(),
                false => "rounded".into(),
            };
            let (name, stored) = (class.name(), stored.name());
            writeln!(f, "{name:<10}{count:>5} tensors  {stored:<7} -> {format}  {kept}")?;
        }
        if let (Some(rms), Some((worst, most))) =
            (self.report.relative_rms(class), self.report.worst(class))
        {
            writeln!(
                f,
                "{:<10}      rounding {:.3} % of the weights' RMS; most in {worst}: {:.3} %",
                class.name(),
                100.0 * rms,
                100.0 * most
            )?;
        }
        Ok(())
    }
}
