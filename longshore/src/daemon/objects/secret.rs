//! [`Secret`]: bytes that nobody is to see.

use std::{fmt, fs::File, io::Read};

use qmp::{QmpError, Value, qapi_enum, qapi_struct};

use crate::daemon::{Daemon, error::system_text};

/// Most bytes that a secret may have.
const SECRET_BYTES_MAX: u64 = 1 << 20;

qapi_enum! {
    /// How a secret is written.
    pub enum SecretFormat {
        /// As it is.
        Raw,
        /// In base64.
        Base64,
    }
}

qapi_struct! {
    /// Where a secret comes from.
    pub struct SecretProperties {
        /// It is this.
        data: Option<String>,
        /// It is in this file.
        file: Option<String>,
        /// How it is written.
        format: Option<SecretFormat>,
        /// The secret by which it is encrypted.
        keyid: Option<String>,
        /// Its initialization vector.
        iv: Option<String>,
    }
}

/// A secret. Nothing that prints it shows what it is.
pub(super) struct Secret {
    bytes: Vec<u8>,
    format: SecretFormat,
    file: Option<String>,
}

impl Secret {
    /// Takes or reads what the options say.
    pub(super) async fn load(daemon: &Daemon, options: SecretProperties) -> Result<Self, QmpError> {
        let SecretProperties {
            data, file, format, ..
        } = options;
        let given = match (data, file.clone()) {
            (Some(_), Some(_)) => {
                let text = "'file' and 'data' are mutually exclusive";
                return Err(QmpError::generic(text));
            }
            (None, None) => {
                let text = "Either 'file' or 'data' must be provided";
                return Err(QmpError::generic(text));
            }
            (Some(data), None) => data.into_bytes(),
            (None, Some(path)) => daemon.context.blocking(move || read_file(&path)).await?,
        };
        // An initialization vector without a key is for nothing, and the reference does not mind it either.
        if let Some(key) = options.keyid {
            return Err(daemon.objects.refuse_key(&key));
        }
        let format = format.unwrap_or(SecretFormat::Raw);
        let bytes = match format {
            SecretFormat::Raw => given,
            SecretFormat::Base64 => from_base64(&given)?,
        };
        Ok(Self {
            bytes,
            format,
            file,
        })
    }

    /// One property; what the secret is, nobody is told.
    pub(super) fn get(&self, property: &str) -> Option<Value> {
        match property {
            "file" => Some(Value::from(self.file.clone().unwrap_or_default())),
            "format" => Some(Value::from(self.format.as_str())),
            "keyid" | "iv" => Some(Value::from("")),
            "data" => Some(Value::Null),
            _ => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("bytes", &self.bytes.len())
            .field("format", &self.format)
            .field("file", &self.file)
            .finish()
    }
}

/// Reads all of a file; blocks.
fn read_file(path: &str) -> Result<Vec<u8>, QmpError> {
    let refused = |what: &str| QmpError::generic(format!("Unable to read {path}: {what}"));
    let file = File::open(path).map_err(|error| {
        let text = system_text(&error);
        refused(&format!("Failed to open file “{path}”: {text}"))
    })?;
    let mut bytes = Vec::new();
    let read = file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes);
    let count = read.map_err(|error| {
        let text = system_text(&error);
        refused(&format!("Error reading file “{path}”: {text}"))
    })?;
    if u64::try_from(count).is_ok_and(|count| count <= SECRET_BYTES_MAX) {
        return Ok(bytes);
    }
    Err(refused(&format!(
        "it has more than {SECRET_BYTES_MAX} bytes"
    )))
}

/// What a text in base64 stands for.
///
/// As forgiving as the reference: lines may be wrapped, padding may be anywhere, and digits at the end that make no
/// group of four are forgotten.
fn from_base64(text: &[u8]) -> Result<Vec<u8>, QmpError> {
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
            assert_eq!(from_base64(text.as_bytes()).unwrap(), want, "{text:?}");
        }
        for text in [" ", "YQ== ", "YQ-_", "YQ\r\n", "\u{fc}"] {
            let error = from_base64(text.as_bytes()).unwrap_err();
            assert_eq!(error.desc, "Base64 data contains invalid characters");
        }
    }
}
