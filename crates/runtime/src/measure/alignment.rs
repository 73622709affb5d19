//! By which multiples widths should be cut on a device.

/// Multiples of channels that processors compute well, and 1, any number.
const CANDIDATES: [usize; 4] = [1, 8, 16, 32];

/// A multiple whose widths take so much more than what the coarsest ones let expect is not as good.
const AS_GOOD: f64 = 1.03;

/// Widths of each candidate.
const WIDTHS: usize = 4;

/// The coarsest candidate that a site of `full` channels has two multiples of.
pub(super) fn coarsest(full: usize) -> usize {
    CANDIDATES.into_iter().rfind(|candidate| 2 * candidate <= full).unwrap_or(1)
}

/// Widths of a site whose times tell, ascending: the multiples of the coarsest candidate, all there
/// is, and of each other candidate some between them that are no multiples of the next one.
pub(super) fn widths_that_tell(full: usize) -> Vec<usize> {
    let coarsest = coarsest(full);
    let mut widths = Vec::from([full]);
    widths.extend((1..).map(|step| step * coarsest).take_while(|&width| width < full));
    widths.extend(CANDIDATES.iter().filter(|&&other| other < coarsest).flat_map(|&other| widths_of(other, full)));
    widths.sort_unstable();
    widths.dedup();
    widths
}

/// Those of a candidate that is not the coarsest, above the middle.
fn widths_of(candidate: usize, full: usize) -> Vec<usize> {
    let next = CANDIDATES.into_iter().find(|&other| other > candidate).unwrap_or(2 * candidate);
    let all = (1..=full / candidate).map(|step| step * candidate);
    let mut own: Vec<usize> = all.filter(|width| width % next != 0 && (coarsest(full)..full).contains(width)).collect();
    own.sort_by_key(|width| width.abs_diff(5 * full / 8));
    own.truncate(WIDTHS);
    own
}

/// The smallest multiple that is about as good as the coarsest, from the times of one block at
/// [`widths_that_tell`].
pub(super) fn best_alignment(full: usize, widths: &[usize], times: &[f64]) -> usize {
    let coarsest = coarsest(full);
    let known: Vec<(usize, f64)> = widths.iter().copied().zip(times.iter().copied()).collect();
    let line: Vec<&(usize, f64)> = known.iter().filter(|(width, _)| width % coarsest == 0 || *width == full).collect();
    let expected = |width: usize| {
        let around = line.windows(2).find(|pair| (pair[0].0..=pair[1].0).contains(&width))?;
        let share = (width - around[0].0) as f64 / (around[1].0 - around[0].0) as f64;
        Some(around[0].1 + share * (around[1].1 - around[0].1))
    };
    let is_as_good = |candidate: &usize| {
        let own = widths_of(*candidate, full);
        let found = known.iter().filter(|(width, _)| own.contains(width));
        let more: Vec<f64> = found.filter_map(|&(width, time)| Some(time / expected(width)?)).collect();
        !more.is_empty() && more.iter().sum::<f64>() <= AS_GOOD * more.len() as f64
    };
    let finer = CANDIDATES.into_iter().filter(|&candidate| candidate < coarsest);
    finer.clone().find(is_as_good).unwrap_or(coarsest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_multiple_that_is_as_good_is_chosen() {
        for (full, most) in [(128, 32), (512, 32), (96, 32), (64, 32), (32, 16), (16, 8)] {
            let widths = widths_that_tell(full);
            for padded in [1, 8, 16, 32].into_iter().filter(|padded| *padded <= most) {
                // A device that is slower at other widths, beside what does not depend on the
                // width.
                let slower = |width: usize| if width.is_multiple_of(padded) { 1.0 } else { 1.5 };
                let time = |&width: &usize| 20.0 + slower(width) * width as f64;
                let times: Vec<f64> = widths.iter().map(time).collect();
                assert_eq!(best_alignment(full, &widths, &times), padded, "{full}: {widths:?}");
            }
        }
    }
}
