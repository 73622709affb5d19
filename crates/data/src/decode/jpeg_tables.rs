//! What a JPEG file says before its scans: the frame's header, and tables that a decoder must not
//! meet when they are damaged.

/// One component of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Component {
    pub id: u8,
    /// Sampling factors.
    pub across: u8,
    pub down: u8,
    /// Which quantization table it uses.
    pub table: u8,
}

/// The header of a frame (ITU T.81, B.2.2) of a kind that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub progressive: bool,
    /// Whether its codes are arithmetic ones instead of Huffman's.
    pub arithmetic: bool,
    pub width: u32,
    pub height: u32,
    count: usize,
    all: [Component; 4],
}

/// What the marker of a frame means, if no frame of that kind is decoded.
fn refused_kind(marker: u8) -> Option<&'static str> {
    match marker {
        0xc3 | 0xcb => Some("it is a lossless JPEG"),
        0xc5..=0xc7 | 0xcd..=0xcf => Some("it is a hierarchical JPEG"),
        _ => None,
    }
}

impl Frame {
    /// Reads the segment behind the marker of a frame.
    pub(crate) fn of(marker: u8, segment: &[u8]) -> Result<Self, String> {
        if let Some(kind) = refused_kind(marker) {
            return Err(format!("{kind}, which is not decoded"));
        }
        let &[bits, h1, h0, w1, w0, count, ref components @ ..] = segment else {
            return Err("the JPEG frame header is too short".into());
        };
        if bits != 8 {
            return Err(format!("it is a JPEG of {bits} bits a color, and only 8 are decoded"));
        }
        let count = usize::from(count);
        let (components, rest) = components.as_chunks::<3>();
        if ![1, 3, 4].contains(&count) {
            return Err(format!("it is a JPEG of {count} components, and only 1, 3 and 4 are decoded"));
        }
        if components.len() != count || !rest.is_empty() {
            return Err("the JPEG frame header has a wrong length".into());
        }
        let mut all = [Component::default(); 4];
        for (component, &[id, sampling, table]) in all.iter_mut().zip(components) {
            *component = Component { id, across: sampling >> 4, down: sampling & 15, table };
        }
        let (height, width) = (u16::from_be_bytes([h1, h0]).into(), u16::from_be_bytes([w1, w0]).into());
        let (progressive, arithmetic) = (marker & 3 == 2, marker & 8 == 8);
        let frame = Self { progressive, arithmetic, width, height, count, all };
        frame.check().map(|()| frame)
    }

    pub(crate) fn components(&self) -> &[Component] {
        &self.all[..self.count]
    }

    /// The largest sampling factors: across and down.
    pub(crate) fn largest(&self) -> (u32, u32) {
        let largest = |factor: fn(&Component) -> u8| self.components().iter().map(factor).max().unwrap_or(1).into();
        (largest(|component| component.across), largest(|component| component.down))
    }

    fn check(&self) -> Result<(), String> {
        let components = self.components();
        let valid = |factor: u8| (1..=4).contains(&factor);
        if components.iter().any(|one| !valid(one.across) || !valid(one.down) || one.table > 3) {
            return Err("the JPEG frame header has sampling factors or tables that do not exist".into());
        }
        if (1..components.len()).any(|i| components[..i].iter().any(|other| other.id == components[i].id)) {
            return Err("two components of the JPEG have the same name".into());
        }
        // libjpeg's most, below the 65,535 of the format.
        if self.width.max(self.height) > 65_500 {
            return Err(format!("a side of the JPEG is above 65500 pixels: {} × {}", self.width, self.height));
        }
        Ok(())
    }

    /// Whether the fast decoder gets the frame right: Huffman codes, the first component the finest
    /// and the others coarser by whole factors, ink sampled evenly.
    pub(crate) fn common(&self) -> bool {
        let components = self.components();
        let first = components[0];
        let fits = |one: &Component| match components.len() {
            4 => (one.across, one.down) == (first.across, first.down),
            _ => first.across.is_multiple_of(one.across) && first.down.is_multiple_of(one.down),
        };
        !self.arithmetic && components.iter().all(fits)
    }
}

/// Which tables a file has defined so far, a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tables {
    pub quantization: u8,
    pub dc: u8,
    pub ac: u8,
}

impl Tables {
    /// Reads a segment of quantization tables.
    pub(crate) fn quantize(&mut self, mut segment: &[u8]) -> Result<(), String> {
        while let [which, rest @ ..] = segment {
            let length = if which >> 4 == 0 { 64 } else { 128 };
            if which >> 4 > 1 || which & 15 > 3 || rest.len() < length {
                return Err("a quantization table of the JPEG is damaged".into());
            }
            self.quantization |= 1 << (which & 15);
            segment = &rest[length..];
        }
        Ok(())
    }

    /// Reads a segment of Huffman tables.
    pub(crate) fn huffman(&mut self, mut segment: &[u8]) -> Result<(), String> {
        let damaged = || Err("a Huffman table of the JPEG is damaged".into());
        while !segment.is_empty() {
            let Some((&[which, ref counts @ ..], rest)) = segment.split_first_chunk::<17>() else { return damaged() };
            let symbols: usize = counts.iter().map(|&count| usize::from(count)).sum();
            if which >> 4 > 1 || which & 15 > 3 || symbols > 256 || symbols > rest.len() {
                return damaged();
            }
            // Codes of one length must leave some over, which nothing may have: the one of ones.
            let (mut code, dc) = (0u32, which >> 4 == 0);
            for (length, &count) in (1..).zip(counts) {
                code = 2 * code + u32::from(count);
                if code >= 1 << length {
                    return damaged();
                }
            }
            if dc && rest[..symbols].iter().any(|&bits| bits > 15) {
                return damaged();
            }
            *(if dc { &mut self.dc } else { &mut self.ac }) |= 1 << (which & 15);
            segment = &rest[symbols..];
        }
        Ok(())
    }
}
