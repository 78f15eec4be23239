//! Base64, as the reference reads and writes it.

use qmp::QmpError;

/// What a text in base64 stands for.
///
/// As forgiving as the reference: lines may be wrapped, padding may be anywhere, and digits at the end that make no
/// group of four are forgotten.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, QmpError> {
    let digits = text.iter().filter(|&&byte| byte != b'\n');
    let digits: Option<Vec<(u8, bool)>> = digits.map(|&byte| base64_digit(byte)).collect();
    let digits =
        digits.ok_or_else(|| QmpError::generic("Base64 data contains invalid characters"))?;
    let mut bytes = Vec::new();
    for group in digits.chunks_exact(4) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, (digit, _)| (bits << 6) | u32::from(*digit));
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.push(first);
        for (byte, (_, is_padding)) in [second, third].into_iter().zip(&group[2..]) {
            if !is_padding {
                bytes.push(byte);
            }
        }
    }
    Ok(bytes)
}

/// The six bits of a digit, and whether it is padding.
fn base64_digit(byte: u8) -> Option<(u8, bool)> {
    let bits = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return None,
    };
    Some((bits, byte == b'='))
}

/// The text that stands for these bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from((bits >> shift) & 63).unwrap_or(0);
            let is_padding = at > group.len();
            text.push(if is_padding {
                '='
            } else {
                char::from(DIGITS[digit])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_the_reference_reads_it() {
        let cases: [(&str, &[u8]); 10] = [
            ("", b""),
            ("aGVsbG8=", b"hello"),
            ("aGVs\nbG8=\n", b"hello"),
            ("YQ==", b"a"),
            ("YR==", b"a"),
            ("YQ", b""),
            ("YWJjYQ", b"abc"),
            ("YQ==YWI=", b"aab"),
            ("/+8=", b"\xff\xef"),
            ("====", b"\0"),
        ];
        for (text, want) in cases {
            assert_eq!(decode(text.as_bytes()).unwrap(), want, "{text:?}");
        }
        for text in [" ", "YQ== ", "YQ-_", "YQ\r\n", "\u{fc}"] {
            let error = decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.desc, "Base64 data contains invalid characters");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (bytes, want) in [
            (b"".as_slice(), ""),
            (b"a", "YQ=="),
            (b"ab", "YWI="),
            (b"abc", "YWJj"),
            (b"\xff\xef\0d", "/+8AZA=="),
        ] {
            assert_eq!(encode(bytes), want);
            assert_eq!(decode(want.as_bytes()).unwrap(), bytes);
        }
    }
}
