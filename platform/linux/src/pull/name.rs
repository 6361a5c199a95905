use std::fmt;
use std::str::FromStr;

/// What to pull: a repository and, if it has several checkpoints, which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Who publishes it.
    pub owner: String,
    /// What it is called there.
    pub repository: String,
    /// A quant, or the name of a file.
    pub pick: Option<String>,
}

/// Front parts of addresses that people copy from a browser.
const SITES: [&str; 4] = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/"];
/// Longest part of a name on the hub.
const PART_MOST: usize = 96;

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = SITES.iter().find_map(|site| text.strip_prefix(site)).unwrap_or(text);
        let (path, pick) = match bare.split_once(':') {
            Some((path, pick)) => (path, Some(pick)),
            None => (bare, None),
        };
        let part = |part: &str| {
            let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty()
                && part.len() <= PART_MOST
                && part.chars().all(fine)
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
        };
        match path.strip_suffix('/').unwrap_or(path).split_once('/') {
            Some((owner, repository)) if part(owner) && part(repository) && pick != Some("") => {
                Ok(Self {
                    owner: owner.into(),
                    repository: repository.into(),
                    pick: pick.map(str::to_owned),
                })
            }
            _ => Err("a name on the hub looks like LiquidAI/LFM2-8B-A1B-GGUF:Q4_0".into()),
        }
    }
}

impl Name {
    /// Owner and repository.
    pub fn path(&self) -> String {
        format!("{}/{}", self.owner, self.repository)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.repository)?;
        self.pick.iter().try_for_each(|pick| write!(f, ":{pick}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read() {
        for (text, path, pick) in [
            ("LiquidAI/LFM2-8B-A1B", "LiquidAI/LFM2-8B-A1B", None),
            ("a/b:Q4_0", "a/b", Some("Q4_0")),
            ("a/b:x/y-Q4_0.gguf", "a/b", Some("x/y-Q4_0.gguf")),
            ("https://huggingface.co/a/b/", "a/b", None),
            ("hf.co/a/b_1.5:Q4_0", "a/b_1.5", Some("Q4_0")),
        ] {
            let name: Name = text.parse().unwrap();
            assert_eq!((name.path().as_str(), name.pick.as_deref()), (path, pick));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "a", "a/", "/b", "a/b/c", "a/..", "../b", "a/b:", "a b/c", "a/b?x", "-a/b"]
        {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
