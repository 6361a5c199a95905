//! How an image is cut into the segments of a program: ranges of it, in order, without gaps.

use rill::image::{Ffn, Image, PAGE_ALIGN, Section};

/// The largest segment that is no page: whoever loads one has it in RAM twice for a moment.
const LARGEST: u64 = 4 << 20;

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name; the first segment, which is the delegate's own blob, has none.
    pub name: Option<String>,
    /// Its first byte in the image, a multiple of 16 KiB.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// All of an image: header and manifest, then the other sections up to 4 MiB at a time, then pages.
pub fn of(image: &Image) -> Vec<Segment> {
    let mut segments = vec![Segment { name: None, offset: 0, len: 0 }];
    let starts = Section::ALL.iter().skip(1).map(|&section| image.header.span(section).offset);
    for (section, end) in Section::ALL.into_iter().zip(starts) {
        let mut offset = segments.last().map_or(0, |last| last.offset + last.len);
        if section == Section::Manifest {
            segments[0].len = end;
            continue;
        }
        let name = section.name().replace(' ', "-");
        for part in 0.. {
            let len = (end - offset).min(LARGEST);
            if len == 0 {
                break;
            }
            segments.push(Segment { name: Some(format!("{name}.{part}")), offset, len });
            offset += len;
        }
    }
    let layers = image.manifest.layers.iter().enumerate();
    let layers = layers.filter(|(_, layer)| layer.ffn == Ffn::Moe).map(|(layer, _)| layer);
    let experts = image.manifest.shape.experts;
    let names = layers
        .flat_map(|layer| (0..experts).map(move |expert| format!("layer{layer}.expert{expert}")));
    for (page, name) in (0..).zip(names) {
        let (offset, len) = (image.page_offset(page), image.header.page_len);
        segments.push(Segment { name: Some(name), offset, len });
    }
    debug_assert!(segments.iter().all(|segment| segment.offset.is_multiple_of(PAGE_ALIGN as u64)));
    segments
}

/// Bytes of a name in the table of segments, a 0 at the end included.
const NAME: usize = 32;

/// The named segments as the delegate reads them: a record each, in order: offset and length (u64,
/// little-endian), and the name in 32 bytes that end in zeros.
pub fn table(segments: &[Segment]) -> Vec<u8> {
    let mut table = Vec::new();
    for segment in segments {
        let Some(name) = &segment.name else { continue };
        table.extend(segment.offset.to_le_bytes());
        table.extend(segment.len.to_le_bytes());
        let mut bytes = [0; NAME];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        bytes[NAME - 1] = 0;
        table.extend(bytes);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn segments_are_all_of_an_image() {
        let path = crate::image::kiosk().unwrap();
        let mut file = File::open(path).unwrap();
        let image = super::super::program::read(&mut file).unwrap();
        let segments = of(&image);
        let mut end = 0;
        for segment in &segments {
            assert_eq!(segment.offset, end);
            assert!(segment.len > 0 && segment.offset.is_multiple_of(PAGE_ALIGN as u64));
            end += segment.len;
        }
        assert_eq!(end, file.metadata().unwrap().len());
        let pages = image.manifest.pages();
        let named: Vec<_> = segments.iter().filter_map(|segment| segment.name.as_ref()).collect();
        assert_eq!(named.iter().filter(|name| name.contains(".expert")).count(), pages);
        assert_eq!(table(&segments).len(), named.len() * 48);
        assert!(named.iter().all(|name| name.len() < NAME));
    }
}
