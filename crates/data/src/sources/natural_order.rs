//! The order people count in: `n2` before `n10`.

use std::cmp::Ordering;

/// Compares runs of digits by their value and everything else byte by byte; equal values by plain
/// order, so that no two different names are equal.
pub(crate) fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while let (Some(&first_a), Some(&first_b)) = (rest_a.first(), rest_b.first()) {
        if first_a.is_ascii_digit() && first_b.is_ascii_digit() {
            let (digits_a, digits_b) = (take_digits(&mut rest_a), take_digits(&mut rest_b));
            match digits_a.len().cmp(&digits_b.len()).then_with(|| digits_a.cmp(digits_b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        } else if first_a == first_b {
            (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]);
        } else {
            return first_a.cmp(&first_b);
        }
    }
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// Takes a run of digits off the front; returns it without leading zeros.
fn take_digits<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["n10", "n9", "n010", "n1", "m", "n1b", "n", "n99999999999999999999999", "n2"];
        names.sort_by(|a, b| natural_order(a.as_bytes(), b.as_bytes()));
        assert_eq!(names, ["m", "n", "n1", "n1b", "n2", "n9", "n010", "n10", "n99999999999999999999999"]);
    }
}
