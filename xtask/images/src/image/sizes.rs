//! What an image takes, part by part, against what the board allows.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use object::{Object, ObjectSection, SectionFlags};

/// Parts of an image and their bytes.
#[derive(Debug, Default)]
pub struct Sizes {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    bytes: u64,
    /// The key of the board's file that limits it, and the limit.
    limit: Option<(&'static str, u64)>,
    /// Whether it lies within another part.
    inner: bool,
}

impl Sizes {
    /// A part of the image.
    pub fn add(&mut self, name: impl Into<String>, bytes: u64) -> &mut Self {
        self.parts.push(Part { name: name.into(), bytes, limit: None, inner: false });
        self
    }

    /// A part that lies within others.
    pub fn note(&mut self, name: impl Into<String>, bytes: u64) -> &mut Self {
        self.parts.push(Part { name: name.into(), bytes, limit: None, inner: true });
        self
    }

    /// The sum of all parts but one.
    pub fn sum_but(&mut self, name: &str) -> &mut Self {
        let others = self.parts.iter().filter(|part| !part.inner && part.name != name);
        let bytes = others.map(|part| part.bytes).sum();
        self.note(format!("all but the {name}"), bytes)
    }

    /// The board's file limits the last part with a key, if it has that key.
    pub fn limit(&mut self, key: &'static str, limit: Option<ByteSize>) {
        if let Some(part) = self.parts.last_mut() {
            part.limit = limit.map(|limit| (key, limit.as_u64()));
        }
    }

    /// The sections of a program that take RAM, as parts of the part before.
    pub fn add_sections(&mut self, program: &Path) -> Result<()> {
        let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
        let file = object::File::parse(&*bytes).with_context(|| program.display().to_string())?;
        let loaded = |flags| match flags {
            SectionFlags::Elf { sh_flags, .. } => sh_flags.contains(object::elf::SHF_ALLOC),
            _ => true,
        };
        let mut sections: Vec<_> = file
            .sections()
            .filter(|section| loaded(section.flags()) && section.size() > 0)
            .map(|section| (section.name().unwrap_or("?").to_owned(), section.size()))
            .collect();
        sections.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        for (name, bytes) in sections {
            self.note(name, bytes);
        }
        Ok(())
    }

    /// Fails when a part is larger than the board allows.
    pub fn check(&self, board: &str) -> Result<()> {
        for part in &self.parts {
            if let Some((key, limit)) = part.limit
                && part.bytes > limit
            {
                bail!(
                    "{} takes {} bytes; boards/{board}.toml allows {limit} ({key})",
                    part.name,
                    part.bytes
                );
            }
        }
        Ok(())
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, bytes, limit, inner } in &self.parts {
            let name = format!("{}{name}", if *inner { "  " } else { "" });
            write!(f, "{name:<28} {bytes:>14}")?;
            match limit {
                Some((_, limit)) => writeln!(f, "  of {limit}")?,
                None => writeln!(f)?,
            }
        }
        let total: u64 = self.parts.iter().filter(|p| !p.inner).map(|p| p.bytes).sum();
        write!(f, "{:<28} {total:>14}", "total")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_named_with_its_key() {
        let mut sizes = Sizes::default();
        sizes.add("model", 1 << 40);
        sizes.add("program", 1024).limit("sizes.program", Some(ByteSize::kib(1)));
        sizes.check("pi4").unwrap();
        sizes.add("boot files", 1025).limit("sizes.boot", Some(ByteSize::kib(1)));
        let message = sizes.check("pi4").unwrap_err().to_string();
        for part in ["boot files", "1025", "1024", "boards/pi4.toml", "sizes.boot"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn everything_but_the_model_has_a_limit_of_its_own() {
        let mut sizes = Sizes::default();
        sizes.add("program", 600).limit("sizes.program", Some(ByteSize::kib(1)));
        sizes.note(".text", 500);
        sizes.add("model", 1 << 40);
        sizes.add("licences", 424);
        sizes.sum_but("model").limit("sizes.bundle", Some(ByteSize::kib(1)));
        sizes.check("pi4").unwrap();
        assert!(sizes.to_string().contains("all but the model"), "{sizes}");
        sizes.add("services", 1);
        sizes.sum_but("model").limit("sizes.bundle", Some(ByteSize::kib(1)));
        let message = sizes.check("pi4").unwrap_err().to_string();
        for part in ["all but the model", "1025", "sizes.bundle"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn sections_are_shown_and_not_counted_twice() {
        let mut sizes = Sizes::default();
        sizes.add("program", 5);
        sizes.add_sections(&std::env::current_exe().unwrap()).unwrap();
        sizes.add("model", 7);
        let text = sizes.to_string();
        assert!(text.contains("  .text ") && text.contains("  .rodata "), "{text}");
        assert!(text.ends_with(" 12"), "{text}");
    }
}
