//! What the program is told.

use std::fs;
use std::path::Path;

/// Settings that came with the appliance.
const SHIPPED: &str = "/etc/rill.conf";
/// Settings of whoever runs it, in the place of the shipped ones.
const OWN: &str = "/state/rill.conf";

/// Options of `rill chat`, as a settings file has them.
pub fn arguments() -> Vec<String> {
    let path = if Path::new(OWN).is_file() { OWN } else { SHIPPED };
    match fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            eprintln!("note: {path}: {error}");
            Vec::new()
        }
    }
}

/// Reads lines `name = value`, or `name = true` for options that take no value; lines that begin
/// with `#` say nothing.
fn parse(text: &str) -> Vec<String> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut arguments = Vec::new();
    for line in lines {
        let (name, value) = line.split_once('=').unwrap_or((line, "true"));
        arguments.push(format!("--{}", name.trim()));
        if value.trim() != "true" {
            arguments.push(value.trim().to_owned());
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options() {
        let text = "# comment\n\nram = 64MiB\nsystem = Say x = y.\ngreedy = true\nno-lookahead\n";
        let expected = ["--ram", "64MiB", "--system", "Say x = y.", "--greedy", "--no-lookahead"];
        assert_eq!(parse(text), expected);
    }
}
