//! Line plots as SVG.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;
use rill_linux::replace::NewFile;

use crate::failure::Failure;

/// One panel of a plot.
pub struct Panel {
    /// What it shows, with the unit.
    pub title: String,
    /// What runs along the bottom, with the unit.
    pub below: &'static str,
    /// Its lines, first to last in the legend.
    pub lines: Vec<Line>,
}

/// One line of a panel.
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

const PANEL: (u32, u32) = (560, 420);

/// Writes panels side by side.
pub fn write(path: &Path, panels: &[Panel]) -> Result<(), Failure> {
    let drawn = draw(panels).map_err(|error| std::io::Error::other(error.to_string()));
    let written = drawn.and_then(|svg| {
        let mut out = NewFile::output(path)?;
        out.write_all(svg.as_bytes())?;
        out.finish()
    });
    written.map_err(Failure::file(path))
}

fn draw(panels: &[Panel]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let size = (PANEL.0 * panels.len() as u32, PANEL.1);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            let mut chart = ChartBuilder::on(area)
                .caption(&panel.title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(56)
                .build_cartesian_2d(panel.range(|point| point.0), panel.range(|point| point.1))?;
            chart.configure_mesh().x_desc(panel.below).light_line_style(WHITE).draw()?;
            for (index, line) in panel.lines.iter().enumerate() {
                let color = Palette99::pick(index).to_rgba();
                chart
                    .draw_series(LineSeries::new(
                        line.points.iter().copied(),
                        color.stroke_width(2),
                    ))?
                    .label(&line.name)
                    .legend(move |(x, y)| {
                        PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
                    });
            }
            if panel.lines.len() > 1 {
                chart
                    .configure_series_labels()
                    .background_style(WHITE.mix(0.8))
                    .border_style(BLACK)
                    .position(SeriesLabelPosition::UpperLeft)
                    .draw()?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

impl Panel {
    /// From 0 to a little more than the largest value.
    fn range(&self, of: fn(&(f64, f64)) -> f64) -> Range<f64> {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let most = points.map(of).fold(0.0, f64::max);
        0.0..if most > 0.0 { most * 1.05 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_titles_lines_and_legend() {
        let line = |name: &str, slope: f64| Line {
            name: name.into(),
            points: (0..5).map(|x| (f64::from(x), slope * f64::from(x))).collect(),
        };
        let panels = ["left", "right"].map(|title| Panel {
            title: title.into(),
            below: "RAM, GiB",
            lines: vec![line("lru", 1.0), line("belady", 2.0)],
        });
        let svg = draw(&panels).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for part in ["left", "right", "lru", "belady", "RAM, GiB", "<polyline"] {
            assert!(svg.contains(part), "no {part}");
        }
        let empty = Panel { title: "empty".into(), below: "x", lines: Vec::new() };
        assert!(draw(&[empty]).is_ok());
    }
}
