//! A folder of our own among the temporary files, gone when its owner is.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use super::exit::Failure;

/// A folder that only its maker can enter. Dropping it removes it with all that is in it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// Makes a folder whose name begins with `prefix`.
    pub(crate) fn make(prefix: &str) -> Result<Self, Failure> {
        let parent = env::temp_dir();
        for attempt in 0..1000 {
            let path = parent.join(format!("{prefix}.{}.{attempt}", process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        is_kept: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let what = format!("cannot make the folder '{}'", path.display());
                    return Err(Failure::io(what, &error));
                }
            }
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        let what = format!("cannot make a folder in '{}'", parent.display());
        Err(Failure::io(what, &error))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_are_two_and_both_go() {
        let (one, other) = (
            Scratch::make("ls-test").unwrap(),
            Scratch::make("ls-test").unwrap(),
        );
        let paths = [one.path().to_owned(), other.path().to_owned()];
        assert_ne!(paths[0], paths[1]);
        assert!(paths.iter().all(|path| path.is_dir()));
        drop((one, other));
        assert!(!paths.iter().any(|path| path.exists()));
    }
}
