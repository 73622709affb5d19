//! A selection of the channels of a tensor.

use serde::{Deserialize, Serialize};

/// Some of a tensor's channels, in ascending order, as runs of neighbors: (first, count).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Channels(Vec<(usize, usize)>);

impl Channels {
    /// The channels of these numbers, which must ascend.
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
        Self(runs)
    }

    /// The channels at these ascending positions of a selection; without one, of all channels.
    pub(crate) fn within(selection: Option<&Self>, positions: &[usize]) -> Self {
        match selection {
            None => Self::of(positions.iter().copied()),
            Some(channels) => {
                let numbers: Vec<usize> = channels.numbers().collect();
                Self::of(positions.iter().map(|&position| numbers[position]))
            }
        }
    }

    /// Runs of neighbors: (first, count).
    pub fn runs(&self) -> &[(usize, usize)] {
        &self.0
    }

    /// Their numbers.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|&(first, count)| first..first + count)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// What is wrong with them as channels of a tensor that has `of`.
    pub(crate) fn fault(&self, of: usize) -> Option<String> {
        let mut next = 0;
        for &(first, count) in &self.0 {
            let end = first.checked_add(count).filter(|&end| count > 0 && first >= next && end <= of);
            match end {
                Some(end) => next = end,
                None => return Some(format!("names the channels {first} and {count} in all where {of} are")),
            }
        }
        self.0.is_empty().then(|| "names no channel".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_make_runs() {
        let channels = Channels::of([0, 1, 2, 5, 7, 8]);
        assert_eq!(channels.runs(), [(0, 3), (5, 1), (7, 2)]);
        assert_eq!((channels.count(), channels.numbers().collect::<Vec<_>>()), (6, vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(channels.fault(9), None);
        for (runs, of) in
            [(vec![(0, 3)], 2), (vec![(2, 1), (1, 1)], 9), (vec![(usize::MAX, 2)], 9), (vec![], 9), (vec![(0, 0)], 9)]
        {
            assert!(Channels(runs).fault(of).is_some());
        }
    }
}
