//! From marker to marker through a whole JPEG file (ITU T.81, annex B), as libjpeg goes.

use crate::decode::jpeg_scans::Known;
use crate::decode::jpeg_tables::{Frame, Tables};

/// What a JPEG file holds, so far.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    /// What comes next.
    at: usize,
    /// The frame, and where the two bytes of its height are.
    pub frame: Option<(Frame, usize)>,
    tables: Tables,
    /// Coding units between restart markers.
    restarts: u16,
    pub known: Known,
    /// Whether the fast decoder gets right what stands between the scans.
    pub common: bool,
}

pub(crate) fn cut() -> String {
    "the JPEG data ends too early".into()
}

impl<'a> Walk<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, String> {
        match bytes {
            [0xff, 0xd8] => Err(cut()),
            // Pillow knows a JPEG file by three bytes.
            [0xff, 0xd8, 0xff, ..] => {
                let (tables, known) = (Tables::default(), Known::nothing());
                Ok(Self { bytes, at: 2, frame: None, tables, restarts: 0, known, common: true })
            }
            _ => Err("it begins like a JPEG and does not go on like one".into()),
        }
    }

    /// Passes over one marker, its segment and coded data; true at the end of the image.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        let marker = self.marker()?;
        if marker == 0xd9 {
            return Ok(true);
        }
        if !matches!(marker, 0xc0..=0xc7 | 0xc9..=0xcf | 0xda | 0xdb | 0xdd | 0xe0..=0xef | 0xfe) {
            return Err(format!("the JPEG has a marker, {marker:02x}, where none of its kind may be"));
        }
        let (from, segment) = self.segment(marker)?;
        match marker {
            0xc4 => self.tables.huffman(segment)?,
            // How arithmetic codes adapt: libjpeg looks at it.
            0xcc => self.common = false,
            0xc0..=0xcf if self.frame.is_some() => return Err("the JPEG holds more than one frame".into()),
            0xc0..=0xcf => self.frame = Some((Frame::of(marker, segment)?, from + 1)),
            // libjpeg keeps the tables that each component began with.
            0xdb => {
                self.common &= self.known.scans == 0;
                self.tables.quantize(segment)?;
            }
            0xdd => match segment {
                &[high, low] => self.restarts = u16::from_be_bytes([high, low]),
                _ => return Err("the JPEG's restart interval has a wrong length".into()),
            },
            0xda => return self.scan(segment).map(|()| false),
            _ if self.known.scans == 0 => check_metadata(marker, segment)?,
            _ => {}
        }
        Ok(false)
    }

    /// The next marker. Bytes before it that are none are passed over, as libjpeg does, with a
    /// warning, and so Pillow and the decoder.
    fn marker(&mut self) -> Result<u8, String> {
        loop {
            let rest = &self.bytes[self.at..];
            let full = rest.iter().position(|&byte| byte == 0xff).ok_or_else(cut)?;
            let code = rest[full..].iter().position(|&byte| byte != 0xff).ok_or_else(cut)?;
            self.at += full + code + 1;
            match rest[full + code] {
                0 => {}
                marker => return Ok(marker),
            }
        }
    }

    /// The segment behind a marker, and where it begins.
    fn segment(&mut self, marker: u8) -> Result<(usize, &'a [u8]), String> {
        let from = self.at + 2;
        let &length = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<2>).ok_or_else(cut)?;
        let length = usize::from(u16::from_be_bytes(length));
        // The length counts its own two bytes. Where a segment is of no consequence, libjpeg goes on
        // behind them whatever they say.
        if length < 2 && !matches!(marker, 0xe0..=0xef | 0xfe) {
            return Err(format!("the segment of a JPEG marker, {marker:02x}, has a length of {length}"));
        }
        self.common &= length >= 2;
        self.at += length.max(2);
        self.bytes.get(from..self.at).map(|segment| (from, segment)).ok_or_else(cut)
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), String> {
        let Some((frame, _)) = &self.frame else { return Err("a scan of the JPEG comes before its frame".into()) };
        let scan = self.known.scan(frame, &self.tables, segment)?;
        self.at = scan.end(self.bytes, self.at, self.restarts)?.ok_or_else(cut)?;
        Ok(())
    }
}

/// Refuses what Pillow does not open: it reads more of these segments than the decoder.
fn check_metadata(marker: u8, segment: &[u8]) -> Result<(), String> {
    let short = match marker {
        0xe0 => segment.starts_with(b"JFIF") && segment.len() < 7,
        0xe2 => segment.starts_with(b"ICC_PROFILE\0") && segment.len() < 14,
        0xed => segment.starts_with(b"Photoshop 3.0\0") && ends_in_a_name(segment),
        0xee => segment.starts_with(b"Adobe") && segment.len() < 7,
        _ => false,
    };
    if short { Err(format!("an application segment of the JPEG, {marker:02x}, is damaged")) } else { Ok(()) }
}

/// Whether a list of image resources ends where the length of a name is due.
fn ends_in_a_name(segment: &[u8]) -> bool {
    let mut at = 14;
    while segment.get(at..at + 4) == Some(b"8BIM") {
        at += 6;
        let Some(&name) = segment.get(at) else { return at == segment.len() };
        at += 1 + usize::from(name);
        at += at & 1;
        let Some(&size) = segment.get(at..).and_then(<[u8]>::first_chunk::<4>) else { return false };
        at += 4 + u32::from_be_bytes(size) as usize;
        at += at & 1;
    }
    false
}
