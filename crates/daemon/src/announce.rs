//! How a program announces itself to management software: `--print-capabilities` and discovery files, both as
//! QEMU's `docs/interop/vhost-user.json` lays them out. Everything here comes from the program's own constants.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Program;

/// The device types that the schema knows (`VHostUserBackendType`). Management software refuses a discovery file
/// with any other.
pub const SCHEMA_TYPES: [&str; 15] = [
    "9p",
    "balloon",
    "block",
    "caif",
    "console",
    "crypto",
    "fs",
    "gpu",
    "input",
    "net",
    "rng",
    "rpmsg",
    "rproc-serial",
    "scsi",
    "vsock",
];

/// What `--print-capabilities` prints (vhost-user: Backend program conventions).
#[must_use]
pub fn capabilities_json<P: Program>() -> Value {
    json!({ "type": P::TYPE, "features": P::FEATURES })
}

/// The discovery file (`50-outboard-NAME.json`) of the program that is, or will be, installed as `binary`.
///
/// # Errors
/// When such a file would break the schema: see [`DiscoveryError`].
pub fn discovery_json<P: Program>(binary: &Path) -> Result<Value, DiscoveryError> {
    if !SCHEMA_TYPES.contains(&P::TYPE) {
        return Err(DiscoveryError::UnknownType(P::TYPE));
    }
    match binary.to_str() {
        Some(path) if binary.is_absolute() => Ok(json!({
            "description": P::DESCRIPTION,
            "type": P::TYPE,
            "binary": path,
            "tags": ["outboard"],
        })),
        _ => Err(DiscoveryError::UnfitPath(binary.to_path_buf())),
    }
}

/// Why a program gets no discovery file.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The device type is not among [`SCHEMA_TYPES`].
    #[error("the discovery schema has no device type {0:?}")]
    UnknownType(&'static str),
    /// The schema wants an absolute path, and JSON wants UTF-8.
    #[error("{0:?} is not an absolute path in UTF-8")]
    UnfitPath(PathBuf),
}

/// Whether the arguments (the program's name is the first) ask for the capabilities. No other argument matters
/// then, not even one that is wrong: management software runs the program with this option alone, whatever else
/// the program may require.
pub(crate) fn wanted(args: &[OsString]) -> bool {
    args.iter().skip(1).any(|arg| arg == "--print-capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::{Known, Unknown};

    #[test]
    fn capabilities_have_exactly_type_and_features() {
        let expected = json!({ "type": "block", "features": ["read-only", "blk-file"] });
        assert_eq!(capabilities_json::<Known>(), expected);
    }

    #[test]
    fn discovery_of_a_schema_type_names_the_binary() {
        let value = discovery_json::<Known>(Path::new("/usr/libexec/vhost-user-blk")).unwrap();
        assert_eq!(
            value,
            json!({ "description": "A disk", "type": "block", "binary": "/usr/libexec/vhost-user-blk", "tags": ["outboard"] })
        );
    }

    #[test]
    fn discovery_of_a_relative_path_is_refused() {
        let error = discovery_json::<Known>(Path::new("target/vhost-user-blk")).unwrap_err();
        assert!(matches!(error, DiscoveryError::UnfitPath(_)));
    }

    #[test]
    fn discovery_of_a_type_outside_the_schema_is_refused() {
        let error = discovery_json::<Unknown>(Path::new("/usr/libexec/vhost-user-i2c")).unwrap_err();
        assert!(matches!(error, DiscoveryError::UnknownType("i2c")));
    }

    #[test]
    fn wanted_finds_the_option_anywhere_but_in_the_name() {
        let args = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wanted(&args(&["x", "--nonsense", "--print-capabilities"])));
        assert!(!wanted(&args(&["--print-capabilities", "--fd=3"])));
        assert!(!wanted(&args(&[])));
    }
}
