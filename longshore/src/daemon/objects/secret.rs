//! [`Secret`]: bytes that nobody is to see.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
};

use qmp::{QmpError, Value, qapi_enum, qapi_struct};

use crate::daemon::error::system_text;

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
    /// Reads a secret; blocks.
    pub(super) fn read(options: &SecretProperties) -> Result<Self, QmpError> {
        if options.keyid.is_some() || options.iv.is_some() {
            let text = "encrypted secrets are not supported; give the secret in a file";
            return Err(QmpError::generic(text));
        }
        let format = options.format.unwrap_or(SecretFormat::Raw);
        if format == SecretFormat::Base64 {
            let text = "secrets in base64 are not supported; give the secret as it is";
            return Err(QmpError::generic(text));
        }
        let bytes = match (&options.data, &options.file) {
            (Some(_), Some(_)) => {
                return Err(QmpError::generic(
                    "'file' and 'data' are mutually exclusive",
                ));
            }
            (None, None) => {
                return Err(QmpError::generic(
                    "Either 'file' or 'data' must be provided",
                ));
            }
            (Some(data), None) => data.clone().into_bytes(),
            (None, Some(path)) => read_file(path).map_err(|error| {
                let text = system_text(&error);
                QmpError::generic(format!(
                    "Unable to read {path}: Failed to open file “{path}”: {text}"
                ))
            })?,
        };
        Ok(Self {
            bytes,
            format,
            file: options.file.clone(),
        })
    }

    /// One property; what the secret is, nobody is told.
    pub(super) fn get(&self, property: &str) -> Option<Value> {
        match property {
            "file" => Some(self.file.clone().map_or(Value::Null, Value::from)),
            "format" => Some(Value::from(self.format.as_str())),
            "data" | "keyid" | "iv" => Some(Value::Null),
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

fn read_file(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
