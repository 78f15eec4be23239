//! The plots, as SVG: bars of throughput and processor time, and what a client's writes took during a backup.

use std::fmt::Write;

use super::{
    cases::{Measure, Side},
    report::Outcome,
};

const WIDTH: f64 = 900.0;
/// Where bars and curves begin; names are left of it.
const LEFT: f64 = 300.0;
/// Right of the bars are their figures.
const RIGHT: f64 = 800.0;
const BAR: f64 = 16.0;
const GAP: f64 = 12.0;
const TOP: f64 = 50.0;
/// The curves.
const HEIGHT: f64 = 420.0;
const CURVE_LEFT: f64 = 80.0;
const CURVE_RIGHT: f64 = 700.0;
/// Milliseconds at the bottom of the curves: their scale is logarithmic.
const LATENCY_MIN_MS: f64 = 0.01;

/// All plots for which there are figures: names of files and their texts.
pub(super) fn all(outcomes: &[Outcome]) -> Vec<(String, String)> {
    let bars = [
        ("throughput.svg", "Throughput, MiB/s", Measure::Rate),
        ("cpu.svg", "CPU, seconds per GiB", Measure::Cpu),
    ];
    let bars = bars.into_iter().filter_map(|(name, title, measure)| {
        let svg = bar_plot(outcomes, title, measure)?;
        Some((name.to_owned(), svg))
    });
    let curves = outcomes.iter().filter_map(|outcome| {
        let svg = curve_plot(outcome)?;
        let name = outcome.case.name.replace('/', "_");
        Some((format!("latency_{name}.svg"), svg))
    });
    bars.chain(curves).collect()
}

fn colour(side: Side) -> &'static str {
    match side {
        Side::Longshore => "#1b6ca8",
        Side::Qsd => "#d1495b",
        Side::QsdIothread => "#e08e45",
        Side::QsdOneWorker => "#8d5a97",
        Side::QsdDefaults => "#b08968",
        Side::QemuImg | Side::QemuNbd => "#7a9e7e",
        Side::Nbdkit => "#3b8c6e",
        Side::Dd => "#9aa0a6",
        Side::Limit => "#c9cdd2",
    }
}

/// An SVG in the making.
struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str) -> Self {
        let mut svg = Self(String::new());
        svg.add(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">"
        ));
        svg.add(format_args!(
            "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        ));
        svg.add(format_args!(
            "<text x=\"20\" y=\"26\" font-size=\"16\">{title}</text>"
        ));
        svg
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        self.0.write_fmt(element).expect("a text takes all");
        self.0.push('\n');
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn bar(&mut self, (y, width): (f64, f64), side: Side) {
        let colour = colour(side);
        self.add(format_args!(
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.add(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// A group of bars for each case, as long as the greatest of the group allows.
fn bar_plot(outcomes: &[Outcome], title: &str, measure: Measure) -> Option<String> {
    let mut groups = Vec::new();
    for outcome in outcomes {
        let sides = outcome.case.sides.iter();
        let found = sides.filter_map(|side| Some((*side, outcome.spread(*side, measure)?.median)));
        let bars: Vec<(Side, f64)> = found.collect();
        if !bars.is_empty() {
            groups.push((outcome.case.name, bars));
        }
    }
    let count: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    if count == 0 {
        return None;
    }
    let height = TOP + count as f64 * BAR + groups.len() as f64 * GAP;
    let mut svg = Svg::new(height, title);
    let mut y = TOP;
    for (name, bars) in groups {
        let most = bars
            .iter()
            .map(|bar| bar.1)
            .fold(f64::MIN_POSITIVE, f64::max);
        svg.text((20.0, y + 12.0), "start", name);
        for (side, value) in bars {
            let width = value / most * (RIGHT - LEFT);
            svg.text((LEFT - 6.0, y + 12.0), "end", side.name());
            svg.bar((y, width), side);
            let digits = if value < 100.0 { 3 } else { 0 };
            let figure = format!("{value:.digits$}");
            svg.text((LEFT + width + 6.0, y + 12.0), "start", &figure);
            y += BAR;
        }
        y += GAP;
    }
    Some(svg.end())
}

/// What a client's writes took, for each side that had a client.
fn curve_plot(outcome: &Outcome) -> Option<String> {
    let sides = outcome.turns.iter();
    let curves = sides.filter_map(|(side, turns)| {
        let trace = &turns.last()?.turn.trace;
        (!trace.is_empty()).then_some((*side, trace))
    });
    let curves: Vec<_> = curves.collect();
    let points = || curves.iter().flat_map(|(_, trace)| trace.iter());
    let last_s = points().map(|point| point.0).reduce(f64::max)?.max(0.1);
    let most_ms = points().map(|point| point.1).fold(1.0, f64::max);
    let x = |second: f64| CURVE_LEFT + second / last_s * (CURVE_RIGHT - CURVE_LEFT);
    let decades = (most_ms / LATENCY_MIN_MS).log10().ceil();
    let y = |ms: f64| {
        let share = (ms.max(LATENCY_MIN_MS) / LATENCY_MIN_MS).log10() / decades;
        HEIGHT - share * (HEIGHT - TOP)
    };
    let title = format!(
        "Worst write of 20 ms in milliseconds, {}",
        outcome.case.name
    );
    let mut svg = Svg::new(HEIGHT + 40.0, &title);
    let mut ms = LATENCY_MIN_MS;
    while ms <= most_ms * 10.0 && y(ms) >= TOP - 1.0 {
        svg.line((CURVE_LEFT, y(ms)), (CURVE_RIGHT, y(ms)));
        svg.text((CURVE_LEFT - 6.0, y(ms) + 4.0), "end", &format!("{ms}"));
        ms *= 10.0;
    }
    svg.text(
        (CURVE_RIGHT, HEIGHT + 24.0),
        "end",
        &format!("{last_s:.1} s"),
    );
    svg.text((CURVE_LEFT, HEIGHT + 24.0), "start", "0");
    for (at, (side, trace)) in curves.iter().enumerate() {
        let mut line = String::new();
        for (second, ms) in trace.iter() {
            write!(line, "{:.1},{:.1} ", x(*second), y(*ms)).expect("a text takes all");
        }
        let colour = colour(*side);
        svg.add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>",
            line.trim_end()
        ));
        let legend = TOP + 20.0 * at as f64;
        svg.add(format_args!(
            "<rect x=\"{:.1}\" y=\"{legend:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
            CURVE_RIGHT + 20.0
        ));
        svg.text((CURVE_RIGHT + 38.0, legend + 11.0), "start", side.name());
    }
    Some(svg.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::report::tests::sample;

    /// Elements are opened and closed, and no number is odd.
    fn is_sound(svg: &str) -> bool {
        let opened = svg.matches("<text ").count();
        svg.starts_with("<svg ")
            && svg.ends_with("</svg>\n")
            && opened == svg.matches("</text>").count()
            && !svg.contains("NaN")
            && !svg.contains("inf")
    }

    #[test]
    fn bars_are_as_long_as_their_share_of_the_greatest() {
        let outcome = sample(
            "copy/disk/backup",
            &[
                (Side::Longshore, Measure::Rate, &[500.0]),
                (Side::Qsd, Measure::Rate, &[250.0]),
            ],
        );
        let plots = all(&[outcome]);
        let (name, svg) = &plots[0];
        assert_eq!(name, "throughput.svg");
        assert!(is_sound(svg), "{svg}");
        for width in ["width=\"500.0\"", "width=\"250.0\""] {
            assert!(svg.contains(width), "{svg}");
        }
    }

    #[test]
    fn writes_during_a_backup_are_curves_on_a_logarithmic_scale() {
        let outcome = sample(
            "guest/1/backup",
            &[
                (Side::Longshore, Measure::Iops, &[500.0]),
                (Side::Qsd, Measure::Iops, &[2.0]),
            ],
        );
        let plots = all(&[outcome]);
        let (name, svg) = &plots[0];
        assert_eq!(name, "latency_guest_1_backup.svg");
        assert!(is_sound(svg), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn nothing_found_makes_no_plots() {
        let outcome = sample("copy/holes", &[]);
        assert!(all(&[outcome]).is_empty());
    }
}
