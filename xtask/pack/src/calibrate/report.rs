//! What calibration gained.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::encode::Costs;

/// What became of a layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Squared outputs of the matrices that were calibrated, up to a factor.
    pub power: f64,
    /// Squared errors of these outputs with weights rounded plainly.
    pub plain: f64,
    /// The same with the weights that were chosen.
    pub chosen: f64,
    /// Experts that saw few samples, and how many.
    pub few: Vec<(usize, usize)>,
}

impl LayerReport {
    /// Adds a matrix. Each counts alike, whatever the size of its outputs.
    pub(super) fn add(&mut self, costs: Costs) {
        if costs.power > 0.0 {
            self.power += 1.0;
            self.plain += costs.plain / costs.power;
            self.chosen += costs.chosen / costs.power;
        }
    }

    /// Root mean squares of the errors, relative to the outputs, plainly rounded and as chosen; `None`
    /// when there was nothing to choose.
    pub fn errors(&self) -> Option<[f64; 2]> {
        (self.power > 0.0).then(|| [self.plain, self.chosen].map(|x| (x / self.power).sqrt()))
    }
}

/// What a calibration was made of and what it gained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Texts that the model heard.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Texts that were left aside, because there were enough.
    pub left: usize,
    /// By layer.
    pub layers: Vec<LayerReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "calibrated with {} texts of {} tokens", self.texts, self.tokens)?;
        match self.left {
            0 => writeln!(f)?,
            left => writeln!(f, "; {left} texts more than are used were left aside")?,
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if let Some([plain, chosen]) = layer.errors() {
                writeln!(
                    f,
                    "layer {index:>2}   outputs off by {:.2} % plainly rounded, {:.2} % calibrated",
                    100.0 * plain,
                    100.0 * chosen
                )?;
            }
            if !layer.few.is_empty() {
                let experts: Vec<String> = (layer.few.iter())
                    .map(|(expert, tokens)| format!("{expert} ({tokens} tokens)"))
                    .collect();
                writeln!(f, "           few samples for experts {}", experts.join(", "))?;
            }
        }
        Ok(())
    }
}
