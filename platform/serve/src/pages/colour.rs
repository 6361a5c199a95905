//! Colours of a page, and whether text in them can be read.
//!
//! Contrast is as WCAG 2.2 defines it (<https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio>): from 1 for
//! equal colours to 21 for black on white. Its level AA asks for 4.5 between text and what is behind it and
//! for 3 at the edges of what can be touched; AAA for 7.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A colour in sRGB, written `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour([u8; 3]);

impl Colour {
    pub const WHITE: Self = Self([255; 3]);
    pub const BLACK: Self = Self([0; 3]);

    pub const fn new(rgb: u32) -> Self {
        let [_, red, green, blue] = rgb.to_be_bytes();
        Self([red, green, blue])
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        // `from_str_radix` would take a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| is_hex).map(Self::new)
    }

    /// From black, 0, to white, 1.
    fn luminance(self) -> f64 {
        let linear = |byte: u8| {
            let share = f64::from(byte) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        let [red, green, blue] = self.0.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// The contrast of two colours.
    pub fn contrast(self, other: Self) -> f64 {
        let [one, two] = [self, other].map(|colour| colour.luminance() + 0.05);
        one.max(two) / one.min(two)
    }

    /// A colour on the way to another, `share` of 1 away from this.
    fn mix(self, other: Self, share: f64) -> Self {
        let mut mixed = self.0;
        for (byte, to) in mixed.iter_mut().zip(other.0) {
            let from = f64::from(*byte);
            *byte = (from + (f64::from(to) - from) * share).round() as u8;
        }
        Self(mixed)
    }

    /// The first colour on the way to `toward` whose contrast with each of `on` is at least `least`.
    fn until(self, toward: Self, on: &[Self], least: f64) -> Self {
        let steps = (0..=50).map(|step| self.mix(toward, f64::from(step) / 50.0));
        let mut legible = steps.filter(|colour| on.iter().all(|on| colour.contrast(*on) >= least));
        legible.next().unwrap_or(toward)
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl<'de> Deserialize<'de> for Colour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is no colour such as `#0b6670`"));
        Self::parse(&text).ok_or_else(wrong)
    }
}

/// The colours of a scheme, light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    pub background: Colour,
    pub text: Colour,
    pub accent: Colour,
}

/// Two colours that cannot be told apart well enough.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "`{name}`: {colour} on {on} has a contrast of {contrast:.1}; it takes {least} to be read easily"
)]
pub struct Faint {
    name: String,
    colour: Colour,
    on: Colour,
    contrast: f64,
    least: f64,
}

impl Scheme {
    pub const LIGHT: Self = Self {
        background: Colour::new(0xfb_faf7),
        text: Colour::new(0x1b_2528),
        accent: Colour::new(0x0b_6670),
    };
    pub const DARK: Self = Self {
        background: Colour::new(0x11_181b),
        text: Colour::new(0xea_f0f1),
        accent: Colour::new(0x74_cad2),
    };

    /// What lies on the background: cards, fields.
    fn surface(&self) -> Colour {
        let [dark, light] = [0.07, 0.55];
        match self.background.contrast(Colour::WHITE) < 2.0 {
            true => self.background.mix(Colour::WHITE, light),
            false => self.background.mix(self.text, dark),
        }
    }

    /// An accent for this scheme, made of that of another.
    pub fn adapt(self, accent: Colour) -> Self {
        let on = [self.background, self.surface()];
        Self { accent: accent.until(self.text, &on, 4.5), ..self }
    }

    /// Whether its colours can be read; `path` stands before their names.
    pub fn check(&self, path: &str) -> Result<(), Faint> {
        let pairs = [
            ("text", self.text, self.background, 7.0),
            ("accent", self.accent, self.background, 4.5),
            ("accent", self.accent, self.surface(), 4.5),
        ];
        for (name, colour, on, least) in pairs {
            let contrast = colour.contrast(on);
            if contrast < least {
                let name = format!("{path}{name}");
                return Err(Faint { name, colour, on, contrast, least });
            }
        }
        Ok(())
    }

    /// As the variables of the pages' style sheets.
    pub fn variables(&self) -> String {
        let Self { background, text, accent } = *self;
        let surface = self.surface();
        let soft = background.mix(accent, 0.12);
        let behind = [background, surface, soft];
        let on_accent = match accent.contrast(Colour::WHITE) >= accent.contrast(Colour::BLACK) {
            true => Colour::WHITE,
            false => Colour::BLACK,
        };
        let variables = [
            ("ground", background),
            ("surface", surface),
            ("text", text),
            ("muted", background.mix(text, 0.55).until(text, &behind, 4.5)),
            ("line", background.mix(text, 0.14)),
            ("edge", background.mix(text, 0.3).until(text, &behind[..2], 3.0)),
            ("accent", accent),
            ("on-accent", on_accent),
            ("soft", soft),
            ("alert", Colour::new(0xc0_3a2b).until(text, &behind, 4.5)),
        ];
        variables.iter().map(|(name, colour)| format!("--{name}:{colour};")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn colour(text: &str) -> Colour {
        Colour::parse(text).unwrap()
    }

    #[test]
    fn contrast_is_that_of_the_standard() {
        // Values of WebAIM's contrast checker.
        let pairs = [
            ("#000000", "#ffffff", 21.0),
            ("#777777", "#ffffff", 4.48),
            ("#0000ff", "#ffffff", 8.59),
        ];
        for (one, two, expected) in pairs {
            let contrast = colour(one).contrast(colour(two));
            assert!((contrast - expected).abs() < 0.01, "{one} {two}: {contrast}");
        }
        for wrong in ["", "#fff", "ffffff", "#+fffff", "#12345g", "red"] {
            assert_eq!(Colour::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn everything_that_is_derived_can_be_read() {
        let own = Scheme {
            background: colour("#003322"),
            text: Colour::WHITE,
            accent: colour("#ffcc00"),
        };
        let adapted = Scheme::DARK.adapt(colour("#7a0019"));
        for scheme in [Scheme::LIGHT, Scheme::DARK, own, adapted] {
            scheme.check("").unwrap();
            let text = scheme.variables();
            let of = |name: &str| {
                let (_, rest) = text.split_once(&format!("--{name}:")).unwrap();
                colour(&rest[..7])
            };
            let least =
                [("text", 4.5), ("muted", 4.5), ("accent", 4.5), ("alert", 4.5), ("edge", 3.0)];
            for (name, least) in least {
                for on in ["ground", "surface"] {
                    let contrast = of(name).contrast(of(on));
                    assert!(contrast >= least, "{name} on {on}: {contrast} in {text}");
                }
            }
            for name in ["text", "muted"] {
                assert!(of(name).contrast(of("soft")) >= 4.5, "{name} in {text}");
            }
            assert!(of("on-accent").contrast(of("accent")) >= 4.5, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let faint = Scheme { accent: colour("#ffee00"), ..Scheme::LIGHT };
        let message = faint.check("colours.").unwrap_err().to_string();
        assert!(message.starts_with("`colours.accent`: #ffee00 on #fbfaf7"), "{message}");
        let faint = Scheme { text: colour("#888888"), ..Scheme::LIGHT };
        assert!(faint.check("colours.").unwrap_err().to_string().contains("takes 7"));
    }
}
