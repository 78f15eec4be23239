//! [`Secret`]: bytes that nobody is to see.

use std::{fmt, fs::File, io::Read};

use qmp::{QmpError, Value, qapi_enum, qapi_struct};

use crate::daemon::{Daemon, base64, error::system_text};

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
            SecretFormat::Base64 => base64::decode(&given)?,
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
