//! How results are told: one line for each, which `cargo xtask bench` reads.

use std::fmt::{self, Write};

/// Tells whoever measures that something is not measured here, and why.
pub fn skipped(why: impl fmt::Display) {
    tell(format_args!("skipped: {why}"));
}

/// In how many of all turns other programs disturbed us; nothing to tell when there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disturbed {
    /// So many.
    pub turns: usize,
    /// Of so many.
    pub of: usize,
}

impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.turns {
            0 => Ok(()),
            turns => write!(f, ", disturbed {turns} of {}", self.of),
        }
    }
}

/// Tells a figure and its unit, by all `values` that were found; `remark` begins with a comma or is empty.
///
/// # Panics
///
/// When there are no values.
pub fn tell_figure(
    (name, unit): (&str, &str),
    values: impl IntoIterator<Item = f64>,
    remark: impl fmt::Display,
) {
    let values = spread(values);
    tell(format_args!("figure {name} = {values} {unit}{remark}"));
}

/// Tells our time over a peer's, by all `ratios` that were found.
///
/// # Panics
///
/// When there are no ratios.
pub fn tell_ratio(name: &str, ratios: impl IntoIterator<Item = f64>, disturbed: Disturbed) {
    let ratios = spread(ratios);
    tell(format_args!("ratio {name} = {ratios}{disturbed}"));
}

#[expect(clippy::print_stdout, reason = "the results of a measurement")]
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    println!("{line}");
}

/// Median, least and greatest of `values`, as results show them; a value alone is shown alone.
///
/// # Panics
///
/// When there are no values.
pub fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (values[0], values[values.len() - 1]);
    let median = values[values.len() / 2];
    let decimals = match median.abs() {
        // A count.
        _ if values.iter().all(|value| value.fract() == 0.0) => 0,
        // Two decimals say nothing about a thousandth.
        small if small < 0.1 => 4,
        _ => 2,
    };
    let mut told = format!("{median:.decimals$}");
    if values.len() > 1 {
        write!(told, " [{min:.decimals$}..{max:.decimals$}]").expect("a text takes all");
    }
    told
}

/// The value that `percent` of all `values` do not exceed.
///
/// # Panics
///
/// When there are no values.
#[must_use]
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::{percentile, spread};

    #[test]
    fn a_spread_is_told_by_median_and_ends() {
        let told = spread([3.0, 1.0, 1.254, 0.5, 9.0]);
        assert_eq!(told, "1.25 [0.50..9.00]");
        assert_eq!(spread([0.0034, 0.0035]), "0.0035 [0.0034..0.0035]");
        assert_eq!(spread([7.0]), "7");
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let found = [0, 50, 99, 100].map(|percent| percentile(&values, percent));
        assert_eq!(found, [1.0, 100.0, 198.0, 200.0]);
    }
}
