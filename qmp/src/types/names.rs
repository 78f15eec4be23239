//! Names on the wire, made from those in Rust while it compiles.

/// How long the name that [`kebab`] makes is.
#[doc(hidden)]
pub const fn kebab_len(name: &str) -> usize {
    let bytes = name.as_bytes();
    let start = start(bytes);
    let mut len = bytes.len() - start;
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at].is_ascii_uppercase() {
            len += 1;
        }
        at += 1;
    }
    len
}

/// `job_id`, `JobId` and `r#job_id` become `job-id`.
#[doc(hidden)]
pub const fn kebab<const LEN: usize>(name: &str) -> [u8; LEN] {
    let bytes = name.as_bytes();
    let start = start(bytes);
    let mut wire = [b'-'; LEN];
    let (mut at, mut to) = (start, 0);
    while at < bytes.len() {
        // A hyphen is there already.
        if at > start && bytes[at].is_ascii_uppercase() {
            to += 1;
        }
        if bytes[at] != b'_' {
            wire[to] = bytes[at].to_ascii_lowercase();
        }
        at += 1;
        to += 1;
    }
    wire
}

/// Where a name begins that may be written as `r#name`.
const fn start(bytes: &[u8]) -> usize {
    if bytes.len() > 2 && bytes[0] == b'r' && bytes[1] == b'#' {
        2
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use crate::wire_name;

    #[test]
    fn names_get_hyphens() {
        let names = [
            wire_name!(device),
            wire_name!(job_id),
            wire_name!(r#type),
            wire_name!(OnSuccess),
            wire_name!(Qcow2),
            wire_name!(x_perf),
            wire_name!(a = "A_b"),
        ];
        let want = [
            "device",
            "job-id",
            "type",
            "on-success",
            "qcow2",
            "x-perf",
            "A_b",
        ];
        assert_eq!(names, want);
    }
}
