//! Rill for Python: what `import rill` stands on. The package's own Python is in `rill/`.
//!
//! In reading order:
//! - `worker`: the thread that a model lives on;
//! - `model`: what is done there;
//! - `engine`: how Python asks for it.

mod engine;
mod model;
mod worker;

use pyo3::prelude::*;

/// The module.
#[pymodule]
fn _rill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::Engine>()?;
    module.add("RillError", module.py().get_type::<engine::RillError>())
}
