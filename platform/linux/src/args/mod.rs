//! What the commands have in common on the command line, and the plain options of the library that it
//! means.

mod engine;
mod generate;
mod model;

pub use engine::{BudgetArgs, EngineArgs, threads};
pub use generate::{GenerateArgs, Heeding, begin_talk};
pub use model::ModelArgs;
