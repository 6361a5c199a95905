//! What the tasks of this repository share: the repository's folders, its tools, and what each task
//! needs of them.

pub mod board_args;
pub mod need;
pub mod needs;
pub mod workspace;
