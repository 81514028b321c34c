//! The guests' kernels: prebuilt ones where a directory with them is known, and
//! Debian's otherwise.
//!
//! A directory of prebuilt kernels holds `x86_64/vmlinux` and `arm64/Image` with
//! everything that the scenarios need built in. Debian's kernels have it in
//! modules, which the guest's first program loads in the order given here.
//!
//! The release is Debian 12, the time of the oldest QEMU here: translated by
//! QEMU 7.2, the kernel of Debian 13 crashes in one boot out of ten, without any
//! of our devices (9 of 72 boots; Debian 12's 0 of 24).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Suite};
use super::{Arch, Options, cached};
use crate::workspace::{Workspace, output};

/// The release whose kernels are taken.
const SUITE: Suite = Suite::Bookworm;

/// Names the directory of prebuilt kernels; `debian` (or nothing) means none.
const VARIABLE: &str = "OUTBOARD_GUEST_KERNELS";

/// The modules that the scenarios need of a Debian kernel, without what they
/// depend on. ext4 finds its checksum by name, hence crc32c.
const MODULES: [&str; 8] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "crc32c_generic",
    "ext4",
];

/// Modules that scenarios load themselves, where the kernel has them.
const ON_DEMAND: [&str; 9] = [
    "8021q",
    "evdev",
    "gpio-sim",
    "i2c-stub",
    "null_blk",
    "uinput",
    "virtio_console",
    "virtio_input",
    "vsock_loopback",
];

/// A kernel that QEMU can start, and what has to be loaded into it.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// The image for `-kernel`.
    pub(crate) image: PathBuf,
    /// Modules in loading order, uncompressed.
    pub(crate) modules: Vec<PathBuf>,
    /// Others, for scenarios to load.
    pub(crate) on_demand: Vec<PathBuf>,
    /// How it was configured, where that is known.
    config: String,
}

impl Kernel {
    /// The kernel for guests of `arch`.
    pub(crate) fn open(workspace: &Workspace, arch: Arch) -> Result<Self> {
        match prebuilt_directory(workspace) {
            Some(directory) => prebuilt(&directory, arch),
            None => Self::debian(workspace, arch),
        }
    }

    /// One for x86 that has VLANs, as a module: a prebuilt one may lack them.
    pub(crate) fn with_vlans(workspace: &Workspace) -> Result<Self> {
        let kernel = Self::open(workspace, Arch::X86)?;
        if kernel.has_vlans() { Ok(kernel) } else { Self::debian(workspace, Arch::X86) }
    }

    fn has_vlans(&self) -> bool {
        self.has_module("8021q")
    }

    /// Whether scenarios can load this.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        self.on_demand.iter().any(|path| path.file_stem().is_some_and(|stem| stem == name))
    }

    fn debian(workspace: &Workspace, arch: Arch) -> Result<Self> {
        let directory = debian_directory(workspace, arch);
        let order = std::fs::read_to_string(directory.join("order"))
            .with_context(|| format!("no kernel under {}: run `cargo xtask setup`", directory.display()))?;
        Ok(Self {
            image: directory.join("image"),
            modules: order.lines().map(|name| directory.join("modules").join(name)).collect(),
            on_demand: on_demand(&directory.join("modules")),
            config: String::new(),
        })
    }

    /// Whether it is known to have this built in: `I2C_VIRTIO`. Debian's drivers of that kind are modules, or missing.
    pub(crate) fn has(&self, option: &str) -> bool {
        let line = format!("CONFIG_{option}=y");
        self.config.lines().any(|configured| configured == line)
    }
}

/// Fetches Debian's kernel unless a prebuilt one is known that does for all scenarios. Returns whether anything was done.
pub(super) fn prepare(workspace: &Workspace, arch: Arch, options: Options) -> Result<bool> {
    if !options.debian_kernels
        && let Some(directory) = prebuilt_directory(workspace)
    {
        let kernel = prebuilt(&directory, arch)?;
        if arch == Arch::Arm || kernel.has_vlans() {
            return Ok(false);
        }
    }
    let key = format!("{} {} {}", SUITE.name(), MODULES.join(" "), ON_DEMAND.join(" "));
    cached(&debian_directory(workspace, arch), &key, options.refresh, |directory| {
        let apt = Apt::open(&workspace.cache, SUITE, arch)?;
        let unpacked = directory.join("unpacked");
        // The "cloud" flavour: virtio without the drivers of real machines.
        let name = format!("linux-image-cloud-{}", arch.debian());
        apt.unpack_dependency(&name, "linux-image-", &unpacked)?;
        std::fs::rename(
            find(&unpacked.join("boot"), &|name| name.starts_with("vmlinuz-"))?,
            directory.join("image"),
        )?;
        let order = unpack_modules(&unpacked, &directory.join("modules"))?;
        std::fs::write(directory.join("order"), order.join("\n"))?;
        std::fs::remove_dir_all(unpacked)?;
        Ok(())
    })
}

fn debian_directory(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.cache.join(format!("kernel-{}", arch.debian()))
}

/// The directory of prebuilt kernels: the variable's, or `shared/guest` beside
/// the workspace.
fn prebuilt_directory(workspace: &Workspace) -> Option<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(value) if value.is_empty() || value == "debian" => None,
        Some(value) => Some(PathBuf::from(value)),
        None => {
            let beside = workspace.root.parent()?.join("shared").join("guest");
            beside.is_dir().then_some(beside)
        }
    }
}

fn prebuilt(directory: &Path, arch: Arch) -> Result<Kernel> {
    let image = directory.join(match arch {
        Arch::X86 => "x86_64/vmlinux",
        Arch::Arm => "arm64/Image",
    });
    if !image.is_file() {
        bail!("{} is missing ({VARIABLE}=debian takes Debian's kernels instead)", image.display());
    }
    let modules = image.with_file_name("modules");
    let config = std::fs::read_to_string(image.with_file_name("config")).unwrap_or_default();
    Ok(Kernel { image, modules: Vec::new(), on_demand: on_demand(&modules), config })
}

/// Those of [`ON_DEMAND`] that there are.
fn on_demand(modules: &Path) -> Vec<PathBuf> {
    let paths = ON_DEMAND.iter().map(|name| modules.join(format!("{name}.ko")));
    paths.filter(|path| path.is_file()).collect()
}

/// Copies the needed modules, uncompressed, into `to`; their names in loading
/// order. What is not there as a module is built in.
fn unpack_modules(unpacked: &Path, to: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(to)?;
    let root = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|name| unpacked.join(name))
        .find(|path| path.is_dir())
        .context("the kernel package has no modules")?;
    let mut order = Vec::new();
    for module in MODULES {
        unpack_module(&root, module, to, &mut order)?;
    }
    for module in ON_DEMAND {
        // What it depends on may be loaded at once.
        let mut needed = order.clone();
        unpack_module(&root, module, to, &mut needed)?;
        needed.retain(|name| *name != format!("{module}.ko"));
        order = needed;
    }
    Ok(order)
}

fn unpack_module(root: &Path, module: &str, to: &Path, order: &mut Vec<String>) -> Result<()> {
    let wanted = format!("{}.ko", module.replace('-', "_"));
    if order.contains(&wanted) {
        return Ok(());
    }
    let is_it = |name: &str| {
        let stem = name.strip_suffix(".xz").unwrap_or(name);
        stem.replace('-', "_") == wanted
    };
    let Ok(path) = find(root, &is_it) else { return Ok(()) };
    let bytes = if path.extension().is_some_and(|extension| extension == "xz") {
        output(Command::new("xz").arg("-dc").arg(&path))?
    } else {
        std::fs::read(&path)?
    };
    for needed in dependencies(&bytes) {
        unpack_module(root, &needed, to, order)?;
    }
    std::fs::write(to.join(&wanted), bytes)?;
    order.push(wanted);
    Ok(())
}

/// The names in a module's `depends=` line.
fn dependencies(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .find_map(|word| word.strip_prefix(b"depends="))
        .map(|names| String::from_utf8_lossy(names).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first file below `directory` whose name fits.
fn find(directory: &Path, fits: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if fits(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    bail!("nothing fitting below {}", directory.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module_are_split() {
        let module = b"license=GPL\0depends=mbcache,jbd2\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["mbcache", "jbd2"]);
    }

    #[test]
    fn dependencies_of_a_plain_module_are_none() {
        assert!(dependencies(b"license=GPL\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
