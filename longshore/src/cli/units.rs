//! Sizes, rates, times: how people write them, and how they are shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Bytes as `4096`, `64K`, `200M`, `1.5G`, `2T`; suffixes are powers of 1024, with or without `iB`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused = || format!("'{text}' is not a size such as 4096, 64K, 200M or 1.5G");
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix.to_ascii_lowercase().trim_end_matches("ib") {
        "" if suffix.is_empty() => 1u64,
        "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let whole = whole.checked_mul(unit).ok_or_else(refused)?;
    if !number.contains('.') {
        return Ok(whole);
    }
    let places = u32::try_from(fraction.len())
        .ok()
        .filter(|places| (1..=9).contains(places));
    let scale = 10u64.pow(places.ok_or_else(refused)?);
    let fraction: u64 = fraction.parse().map_err(|_| refused())?;
    let part = u128::from(fraction) * u128::from(unit) / u128::from(scale);
    let part = u64::try_from(part).map_err(|_| refused())?;
    whole.checked_add(part).ok_or_else(refused)
}

/// Bytes per second: a size, with or without `/s`; zero is refused, since it would never end.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text.strip_suffix("/s").unwrap_or(text))? {
        0 => Err("a limit of nothing would never end".to_owned()),
        rate => Ok(rate),
    }
}

/// Bytes of a request: a size that holds a cluster.
pub(crate) fn parse_chunk(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0..65536 => Err("a request of the copy has 64K at least".to_owned()),
        chunk => Ok(chunk),
    }
}

/// Milliseconds such as `2` or `0.5`, in nanoseconds.
pub(crate) fn parse_millis(text: &str) -> Result<u64, String> {
    let refused = || format!("'{text}' is not a number of milliseconds such as 2 or 0.5");
    let millis: f64 = text.parse().map_err(|_| refused())?;
    let time = Duration::try_from_secs_f64(millis / 1e3).map_err(|_| refused())?;
    match u64::try_from(time.as_nanos()) {
        Ok(ns) if ns > 0 => Ok(ns),
        _ => Err(refused()),
    }
}

/// Nanoseconds as `0.08 ms`, `2 ms`, `150 ms`.
pub(crate) fn millis(ns: u64) -> String {
    let hundredths = ns / 10_000;
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match (whole, part) {
        (0..10, 1..) => format!("{whole}.{part:02} ms"),
        _ => format!("{whole} ms"),
    }
}

/// `1.42 GiB`, `384 MiB`, `511 B`: three digits and a power of 1024.
pub(crate) fn bytes(count: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, unit)| count >= *unit);
    let Some((name, unit)) = unit else {
        return format!("{count} B");
    };
    format!("{} {name}", hundredths(count, *unit))
}

/// A pair in the unit of the second: `124.0/200.0 GiB`.
pub(crate) fn bytes_of(done: u64, total: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, unit)| total >= *unit);
    let Some((name, unit)) = unit else {
        return format!("{done}/{total} B");
    };
    format!("{}/{} {name}", tenths(done, *unit), tenths(total, *unit))
}

/// Three digits or more of a quotient: `1.42`, `14.2`, `142`.
fn hundredths(count: u64, unit: u64) -> String {
    let hundredths = u128::from(count) * 100 / u128::from(unit);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match whole {
        0..=9 => format!("{whole}.{part:02}"),
        10..=99 => format!("{whole}.{}", part / 10),
        _ => whole.to_string(),
    }
}

fn tenths(count: u64, unit: u64) -> String {
    let tenths = u128::from(count) * 10 / u128::from(unit);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// `1.42 GiB/s`.
pub(crate) fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// `count` per `elapsed`, per second; zero when no time has passed.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> u64 {
    let ns = elapsed.as_nanos();
    if ns == 0 {
        return 0;
    }
    u64::try_from(u128::from(count) * 1_000_000_000 / ns).unwrap_or(u64::MAX)
}

/// Whole percent, 100 only when all is done.
pub(crate) fn percent(done: u64, total: u64) -> u64 {
    if total == 0 {
        return 100;
    }
    let percent = u128::from(done) * 100 / u128::from(total);
    u64::try_from(percent.min(100)).unwrap_or(100)
}

/// `740 ms`, `1.7 s`, `55 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.subsec_millis()),
        1..=9 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        10..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// The moment as `2026-11-21T00:30:22Z`.
pub(crate) fn timestamp(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year, in eras of 400 years.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = if months_since_march < 10 {
        months_since_march + 3
    } else {
        months_since_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_may_have_decimals_and_chunks_hold_a_cluster() {
        let told = ["2", "0.5", "0.08", "150"].map(|text| millis(parse_millis(text).unwrap()));
        assert_eq!(told, ["2 ms", "0.50 ms", "0.08 ms", "150 ms"]);
        for text in ["", "0", "-1", "x", "nan", "inf", "1e99"] {
            parse_millis(text).unwrap_err();
        }
        assert_eq!(parse_chunk("256K"), Ok(256 << 10));
        parse_chunk("4K").unwrap_err();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = [
            ("0", 0),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("200M", 200 << 20),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
            ("12B", 12),
        ];
        for (text, want) in read {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let wrong = [
            "",
            "-1",
            "1.5.5G",
            "1.G",
            ".5G",
            "G",
            "1X",
            "1 G",
            "iB",
            "1iB",
            "99999999T",
            "1.0000000000001G",
            "18446744073709551616",
        ];
        for text in wrong {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_may_say_per_second_and_is_never_nothing() {
        assert_eq!(parse_rate("200M/s"), Ok(200 << 20));
        assert_eq!(parse_rate("200M"), Ok(200 << 20));
        assert!(parse_rate("0").is_err());
    }

    #[test]
    fn bytes_have_three_digits() {
        let shown = [
            511,
            1 << 10,
            1536,
            384 << 20,
            14_540 << 20,
            1 << 40,
            u64::MAX,
        ]
        .map(bytes);
        let want = [
            "511 B",
            "1.00 KiB",
            "1.50 KiB",
            "384 MiB",
            "14.1 GiB",
            "1.00 TiB",
            "16777215 TiB",
        ];
        assert_eq!(shown, want);
        assert_eq!(bytes_of(62 << 30, 200 << 30), "62.0/200.0 GiB");
        assert_eq!(bytes_of(5, 511), "5/511 B");
    }

    #[test]
    fn only_all_of_it_is_a_hundred_percent() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(0, 0), 100);
    }

    #[test]
    fn times_are_short() {
        let shown =
            [740, 1_740, 55_000, 125_000, 12_000_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(
            shown,
            ["740 ms", "1.7 s", "55 s", "2 min 5 s", "3 h 20 min"]
        );
    }

    #[test]
    fn timestamps_know_leap_years() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
