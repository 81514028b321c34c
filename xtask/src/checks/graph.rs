//! `cargo xtask graph`: a crate uses only crates above it in the design's tree.

use anyhow::{Context, Result};
use serde_json::Value;

use super::verdict;
use crate::workspace::{Workspace, metadata};

/// The layers from the top: a package may use those of layers before its own.
const LAYERS: [&[&str]; 8] = [
    &["outboard-virtio-defs", "outboard-nbd", "outboard-scmi-protocols"],
    &["outboard-guest-memory", "outboard-vhost-user", "outboard-frames"],
    &["outboard-virtqueue", "outboard-switch", "outboard-usernet"],
    &["outboard-device"],
    &["outboard-backend", "outboard-frontend"],
    &["outboard-daemon"],
    &["outboard-streams"],
    &[DEVICES],
];

/// Stands for every package in `devices/`.
const DEVICES: &str = "devices/*";

/// All that a device may use of the project: the contract, the program around it,
/// and protocols without I/O; not what serves it.
const FOR_DEVICES: [&str; 8] = [
    "outboard-device",
    "outboard-daemon",
    "outboard-streams",
    "outboard-nbd",
    "outboard-scmi-protocols",
    "outboard-frames",
    "outboard-switch",
    "outboard-usernet",
];

/// Packages from elsewhere that are named in one place only.
const RESERVED: [(&str, &str); 2] =
    [("vm-memory", "outboard-guest-memory"), ("io-uring", "outboard-backend")];

/// Checks the workspace's packages.
pub(crate) fn graph(workspace: &Workspace) -> Result<()> {
    let metadata = metadata(&workspace.root)?;
    let packages: Vec<Package> = metadata
        .get("packages")
        .and_then(Value::as_array)
        .context("cargo metadata lists no packages")?
        .iter()
        .map(|package| Package::read(package, workspace))
        .collect::<Result<_>>()?;
    let faults: Vec<String> = packages.iter().flat_map(faults_of).collect();
    verdict(&format!("{} packages use only what is above them", packages.len()), &faults)
}

struct Package {
    name: String,
    /// Relative to the workspace.
    directory: String,
    /// What it needs to be built; what its tests need is their own affair.
    uses: Vec<String>,
}

impl Package {
    fn read(package: &Value, workspace: &Workspace) -> Result<Self> {
        let text = |key: &str| package.get(key).and_then(Value::as_str).map(str::to_owned);
        let manifest = text("manifest_path").context("a package without manifest")?;
        let directory = std::path::Path::new(&manifest)
            .parent()
            .and_then(|path| path.strip_prefix(&workspace.root).ok())
            .context("a package outside the workspace")?;
        let uses = package
            .get("dependencies")
            .and_then(Value::as_array)
            .context("a package without dependencies")?
            .iter()
            .filter(|dependency| dependency.get("kind").and_then(Value::as_str) != Some("dev"))
            .filter_map(|dependency| dependency.get("name").and_then(Value::as_str).map(str::to_owned))
            .collect();
        Ok(Self {
            name: text("name").context("a package without name")?,
            directory: directory.display().to_string(),
            uses,
        })
    }

    fn is_device(&self) -> bool {
        self.directory.starts_with("devices/")
    }

    /// Its layer; `None` for programs below all of them (tools and tasks).
    fn layer(&self) -> Option<usize> {
        let name = if self.is_device() { DEVICES } else { self.name.as_str() };
        LAYERS.iter().position(|layer| layer.contains(&name))
    }
}

fn faults_of(package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    let layer = package.layer();
    if layer.is_none() && package.directory.starts_with("crates/") {
        faults.push(format!("{} has no place in the tree: give it one in xtask's graph.rs", package.name));
    }
    for used in &package.uses {
        if let Some((_, owner)) = RESERVED.iter().find(|(name, owner)| name == used && *owner != package.name)
        {
            faults.push(format!("{} uses {used}, which only {owner} may", package.name));
        }
        let ours = used.starts_with("outboard-") || used == "xtask";
        if !ours {
            continue;
        }
        if package.is_device() && !FOR_DEVICES.contains(&used.as_str()) {
            faults.push(format!("{} uses {used}: a device uses {}", package.name, FOR_DEVICES.join(" and ")));
            continue;
        }
        let above = LAYERS.iter().position(|layer| layer.contains(&used.as_str()));
        let fits = match (layer, above) {
            (Some(own), Some(other)) => other < own,
            (Some(_), None) => false,
            (None, _) => true,
        };
        if !fits {
            faults.push(format!("{} uses {used}, which is not above it", package.name));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, directory: &str, uses: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            directory: directory.to_owned(),
            uses: uses.iter().map(|&used| used.to_owned()).collect(),
        }
    }

    #[test]
    fn package_using_what_is_above_has_no_fault() {
        let uses = ["outboard-virtqueue", "outboard-virtio-defs", "libc"];
        assert!(faults_of(&package("outboard-device", "crates/device", &uses)).is_empty());
        assert!(faults_of(&package("outboard-rng", "devices/rng", &["outboard-device"])).is_empty());
        assert!(faults_of(&package("outboard", "tools/outboard", &["outboard-rng"])).is_empty());
    }

    #[test]
    fn package_using_what_is_below_or_beside_is_at_fault() {
        for (name, directory, used) in [
            ("outboard-virtqueue", "crates/virtqueue", "outboard-device"),
            ("outboard-frontend", "crates/frontend", "outboard-backend"),
            ("outboard-daemon", "crates/daemon", "outboard-rng"),
            ("outboard-rng", "devices/rng", "outboard-backend"),
            ("outboard-rng", "devices/rng", "outboard-blk"),
            ("outboard-device", "crates/device", "vm-memory"),
            ("outboard-new", "crates/new", "libc"),
        ] {
            assert_eq!(faults_of(&package(name, directory, &[used])).len(), 1, "{name} uses {used}");
        }
    }
}
