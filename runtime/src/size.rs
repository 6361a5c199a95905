//! Sizes in bytes, as people write and read them.

use core::fmt;
use core::fmt::Write as _;
use core::str::FromStr;

/// A number of bytes. Written as `412 MiB` or `1.50 GiB`; read from text such as `768MiB`, `1.5G`,
/// `2GB` or `1048576`, where K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024, KB, MB, GB, TB
/// powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASize;

impl fmt::Display for NotASize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a size; write for example 900MiB or 1.5GiB")
    }
}

impl core::error::Error for NotASize {}

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let text = text.trim();
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let number: f64 = number.trim().parse().map_err(|_| NotASize)?;
        let (letter, rest) = unit.split_at(usize::from(!unit.is_empty()));
        let letter = letter.chars().next().map_or('b', |letter| letter.to_ascii_lowercase());
        let power = "bkmgt".find(letter).ok_or(NotASize)?;
        let base = match rest {
            _ if power == 0 && !rest.is_empty() => return Err(NotASize),
            "" => 1024.0,
            _ if rest.eq_ignore_ascii_case("ib") => 1024.0,
            _ if rest.eq_ignore_ascii_case("b") => 1000.0,
            _ => return Err(NotASize),
        };
        let bytes = (0..power).fold(number, |bytes, _| bytes * base);
        if (0.0..1e18).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(NotASize) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0 as f64;
        let mut text = heapless::String::<32>::new();
        match self.0 {
            0..1024 => write!(text, "{value} B"),
            1024..0x10_0000 => write!(text, "{:.1} KiB", value / 1024.0),
            0x10_0000..0x4000_0000 => write!(text, "{:.1} MiB", value / f64::from(1 << 20)),
            _ => write!(text, "{:.2} GiB", value / f64::from(1 << 30)),
        }?;
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::ToString;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("100b", 100),
            ("1k", 1 << 10),
            ("768MiB", 768 << 20),
            ("768 mib", 768 << 20),
            ("1.5G", 3 << 29),
            ("2GB", 2_000_000_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1G", "1X", "1GiBs", "1bb", "nan", "inf", "1e30G", "1,5G"] {
            assert_eq!(text.parse::<Size>(), Err(NotASize), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in
            [(0, "0 B"), (1536, "1.5 KiB"), (432_013_312, "412.0 MiB"), (3 << 29, "1.50 GiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn sizes_can_be_aligned() {
        assert_eq!(format!("{:>10}|", Size(1536)), "   1.5 KiB|");
    }
}
