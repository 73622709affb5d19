//! What the scans of a JPEG file hold: whether together they are all of the image, and where each
//! of them ends.

use crate::decode::jpeg_tables::{Component, Frame, Tables};

/// How far each coefficient of each component is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Bits that are still missing, or `UNKNOWN`.
    missing: [[u8; 64]; 4],
    /// Scans so far.
    pub scans: usize,
    /// Whether the fast decoder knows such scans.
    pub common: bool,
}

const UNKNOWN: u8 = u8::MAX;

/// The header of a scan, checked against its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Coding units.
    units: u64,
}

impl Known {
    pub(crate) fn nothing() -> Self {
        Self { missing: [[UNKNOWN; 64]; 4], scans: 0, common: true }
    }

    /// Whether every coefficient of every component of a frame is known to its last bit.
    pub(crate) fn is_all(&self, frame: &Frame) -> bool {
        self.missing[..frame.components().len()].iter().all(|missing| missing.iter().all(|&bits| bits == 0))
    }

    /// Reads the segment behind the marker of a scan.
    pub(crate) fn scan(&mut self, frame: &Frame, tables: &Tables, segment: &[u8]) -> Result<Scan, String> {
        let wrong = |what: &str| Err(format!("a scan of the JPEG {what}"));
        let Some((&count, rest)) = segment.split_first() else { return wrong("has no header") };
        let count = usize::from(count);
        let Some((chosen, &[first, last, bits])) = rest.split_last_chunk::<3>() else { return wrong("has no header") };
        let (chosen, odd) = chosen.as_chunks::<2>();
        let components = frame.components();
        if chosen.len() != count || !odd.is_empty() || !(1..=components.len()).contains(&count) {
            return wrong("has a header of a wrong length");
        }
        let mut at = Vec::with_capacity(4);
        for &[id, _] in chosen {
            let from = at.last().map_or(0, |last| last + 1);
            match components[from..].iter().position(|one| one.id == id) {
                Some(found) => at.push(from + found),
                None => return wrong("names components in a way that is not decoded"),
            }
        }
        let blocks: u32 =
            at.iter().map(|&one| u32::from(components[one].across) * u32::from(components[one].down)).sum();
        if count > 1 && blocks > 10 {
            return wrong("has more than 10 blocks in a coding unit, the most of the standard");
        }
        self.check_tables(frame, tables, chosen, &at, first)?;
        if frame.progressive {
            self.refine(&at, first, last, bits)?;
        } else {
            if (first, last, bits) != (0, 63, 0) {
                return wrong("is a progressive one, and the JPEG is not");
            }
            self.common &= count == 1 || count == components.len();
            if at.iter().any(|&one| self.missing[one][0] == 0) {
                return wrong("repeats a component");
            }
            at.iter().for_each(|&one| self.missing[one] = [0; 64]);
        }
        self.scans += 1;
        Ok(Scan { units: units(frame, components, &at) })
    }

    fn check_tables(
        &self,
        frame: &Frame,
        tables: &Tables,
        chosen: &[[u8; 2]],
        at: &[usize],
        first: u8,
    ) -> Result<(), String> {
        for (&[_, huffman], &one) in chosen.iter().zip(at) {
            let (dc, ac) = (huffman >> 4, huffman & 15);
            let needs_dc = !frame.progressive || first == 0;
            let needs_ac = !frame.progressive || first != 0;
            let has = |mask: u8, which: u8| which < 4 && mask >> which & 1 == 1;
            let huffman = frame.arithmetic || (!needs_dc || has(tables.dc, dc)) && (!needs_ac || has(tables.ac, ac));
            if dc > 3 || ac > 3 || !huffman || !has(tables.quantization, frame.components()[one].table) {
                return Err("the JPEG lacks a table that it uses".into());
            }
        }
        Ok(())
    }

    /// A scan of a progressive JPEG: the coefficients `first` to `last`, `bits` before and after.
    fn refine(&mut self, at: &[usize], first: u8, last: u8, bits: u8) -> Result<(), String> {
        let (before, after) = (bits >> 4, bits & 15);
        let band = if first == 0 { last == 0 } else { first <= last && last < 64 && at.len() == 1 };
        let bits = after <= 13 && (before == 0 || before == after + 1);
        // Coefficients after the first follow it.
        let known = at.iter().all(|&one| first == 0 || self.missing[one][0] != UNKNOWN);
        let expected = if before == 0 { UNKNOWN } else { before };
        let mut follows = true;
        if band && bits {
            for &one in at {
                for missing in &mut self.missing[one][usize::from(first)..=usize::from(last)] {
                    follows &= *missing == expected;
                    *missing = after;
                }
            }
        }
        if band && bits && known && follows {
            return Ok(());
        }
        Err("a scan of the JPEG does not follow from the ones before".into())
    }
}

/// Coding units of a scan: blocks of its component, or groups of blocks of all of them.
fn units(frame: &Frame, components: &[Component], at: &[usize]) -> u64 {
    let (across, down) = frame.largest();
    let count = |size: u32, factor: u32, largest: u32| u64::from((size * factor).div_ceil(largest).div_ceil(8));
    let (one_across, one_down) = match at {
        &[one] => (components[one].across.into(), components[one].down.into()),
        _ => (1, 1),
    };
    count(frame.width, one_across, across) * count(frame.height, one_down, down)
}

impl Scan {
    /// Where the coded data that begin at `at` end, which is before the next marker.
    ///
    /// # Errors
    /// If restart markers are not where they must be: decoders differ in how they go on then.
    /// `None` if no marker follows.
    pub(crate) fn end(&self, bytes: &[u8], mut at: usize, interval: u16) -> Result<Option<usize>, String> {
        let expected = match u64::from(interval) {
            0 => 0,
            interval => self.units.saturating_sub(1) / interval,
        };
        let mut restarts = 0;
        loop {
            let Some(found) = next_full_byte(bytes, at) else { return Ok(None) };
            let Some(code) = bytes[found..].iter().position(|&byte| byte != 0xff) else { return Ok(None) };
            at = found + code + 1;
            match bytes[found + code] {
                0 => {}
                restart @ 0xd0..=0xd7 => {
                    if restarts == expected || u64::from(restart & 7) != restarts % 8 {
                        return Err("restart markers of the JPEG are out of order".into());
                    }
                    restarts += 1;
                }
                _ if restarts < expected => return Err("restart markers of the JPEG are missing".into()),
                _ => return Ok(Some(found)),
            }
        }
    }
}

/// Where the next byte of ones is.
fn next_full_byte(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    // Whole pieces without one are passed over quickly.
    let pieces = rest.as_chunks::<32>().0;
    let without =
        pieces.iter().take_while(|piece| piece.iter().fold(0, |any, &byte| any | u8::from(byte == 0xff)) == 0);
    let skipped = 32 * without.count();
    rest[skipped..].iter().position(|&byte| byte == 0xff).map(|at| from + skipped + at)
}
