//! Arrays for NumPy: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::{self, Write};

/// Writes the header of a file in format 1.0; the elements follow it, last axis fastest.
/// `dtype` is NumPy's name, such as `<f4`.
pub fn write_header(out: &mut impl Write, dtype: &str, shape: &[usize]) -> io::Result<()> {
    const ALIGN: usize = 64;
    const PREFIX: usize = 10;
    let shape: String = shape.iter().map(|len| format!("{len}, ")).collect();
    let mut dict = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    let total = (PREFIX + dict.len() + 1).next_multiple_of(ALIGN);
    dict.extend(std::iter::repeat_n(' ', total - PREFIX - dict.len() - 1));
    dict.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(dict.len() as u16).to_le_bytes())?;
    out.write_all(dict.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_aligned_and_says_the_shape() {
        let mut bytes = Vec::new();
        write_header(&mut bytes, "<f4", &[3, 2048]).unwrap();
        assert_eq!(bytes.len(), 128);
        assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
        let text = str::from_utf8(&bytes[10..]).unwrap();
        let dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2048, ), }";
        assert_eq!(text.trim_end(), dict);
        assert!(text.ends_with('\n'));
    }
}
