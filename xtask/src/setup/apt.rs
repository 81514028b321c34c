//! Debian packages without installing them: `apt-get` under a private
//! configuration (sources, lists, an empty package status), so that a package's
//! whole closure is resolved, downloaded and checked against Debian's archive
//! keys while the machine's own state stays as it is.
//!
//! The machine's configuration is still read first: proxies and the mirror come
//! from there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Arch;
use crate::workspace::output;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const FALLBACK_MIRROR: &str = "http://deb.debian.org/debian";

/// A Debian release, with or without its backports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian 13 with backports preferred.
    TrixieBackports,
    /// Debian's newest packages.
    Sid,
}

impl Suite {
    fn release(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie | Self::TrixieBackports => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The suite's name, as in a sources list.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TrixieBackports => "trixie-backports",
            plain => plain.release(),
        }
    }
}

/// A private apt, in a directory that is removed when it is dropped.
pub(crate) struct Apt {
    directory: tempfile::TempDir,
    suite: Suite,
    configuration: PathBuf,
}

impl Apt {
    /// Sets up the configuration under `cache` and reads the package lists.
    pub(crate) fn open(cache: &Path, suite: Suite, arch: Arch) -> Result<Self> {
        Self::reading(cache, suite, arch, "deb")
    }

    /// The same for source packages instead of built ones.
    pub(crate) fn open_sources(cache: &Path, suite: Suite) -> Result<Self> {
        Self::reading(cache, suite, Arch::X86, "deb-src")
    }

    fn reading(cache: &Path, suite: Suite, arch: Arch, kind: &str) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing (package debian-archive-keyring): packages could not be verified");
        }
        let directory = tempfile::Builder::new().prefix("apt-").tempdir_in(cache)?;
        let at = |name: &str| directory.path().join(name);
        for name in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(at(name))?;
        }
        std::fs::write(at("status"), "")?;
        let mirror = mirror();
        let mut sources = format!("{kind} [signed-by={KEYRING}] {mirror} {} main\n", suite.release());
        if suite == Suite::TrixieBackports {
            writeln!(sources, "{kind} [signed-by={KEYRING}] {mirror} {} main", suite.name())?;
        }
        std::fs::write(at("sources.list"), sources)?;
        let here = directory.path().display();
        let arch = arch.debian();
        std::fs::write(
            at("apt.conf"),
            format!(
                "APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
                 Dir::Etc::sourcelist \"{here}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
                 Dir::Etc::preferences \"-\";\nDir::Etc::preferencesparts \"-\";\n\
                 Dir::State \"{here}\";\nDir::State::lists \"{here}/lists\";\n\
                 Dir::State::status \"{here}/status\";\nDir::Cache \"{here}\";\n\
                 Dir::Cache::archives \"{here}/archives\";\nDebug::NoLocking \"true\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
            ),
        )?;
        open_to_all(directory.path())?;
        let configuration = at("apt.conf");
        let apt = Self { directory, suite, configuration };
        output(apt.command("apt-get").args(["update", "-q"])).context("reading the package lists")?;
        Ok(apt)
    }

    /// Downloads `packages` and all that they depend on, and unpacks them into
    /// `prefix`.
    pub(crate) fn unpack_closure(&self, packages: &[&str], prefix: &Path) -> Result<()> {
        output(
            self.command("apt-get")
                .args(["install", "-q", "-y", "--no-install-recommends", "--download-only", "-t"])
                .arg(self.suite.name())
                .args(packages),
        )
        .with_context(|| format!("downloading {}", packages.join(", ")))?;
        self.unpack(&self.directory.path().join("archives"), prefix)
    }

    /// Downloads the one package that the metapackage `name` depends on whose
    /// name starts with `start`, and unpacks it alone into `prefix`.
    pub(crate) fn unpack_dependency(&self, name: &str, start: &str, prefix: &Path) -> Result<()> {
        let listed = output(self.command("apt-cache").args(["depends", "--no-recommends", name]))?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let package = listed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with(start))
            .with_context(|| format!("{name} depends on no package {start}*"))?;
        let archives = self.directory.path().join("archives");
        output(self.command("apt-get").current_dir(&archives).args(["download", "-q", package]))
            .with_context(|| format!("downloading {package}"))?;
        self.unpack(&archives, prefix)
    }

    /// Downloads the authors' archive of a source package, without Debian's changes to it, and unpacks it into
    /// `directory`.
    pub(crate) fn unpack_source(&self, package: &str, directory: &Path) -> Result<()> {
        let archives = self.directory.path().join("archives");
        let mut download = self.command("apt-get");
        download.current_dir(&archives).args(["source", "-q", "--tar-only", "--download-only", package]);
        output(&mut download).with_context(|| format!("downloading the source of {package}"))?;
        let is_archive = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(".orig.tar."))
        };
        let paths = std::fs::read_dir(&archives)?.map(|entry| Ok(entry?.path()));
        let paths = paths.collect::<Result<Vec<_>>>()?;
        let archive = paths.into_iter().find(is_archive);
        let archive = archive.with_context(|| format!("the source of {package} has no archive"))?;
        std::fs::create_dir_all(directory)?;
        output(
            Command::new("tar")
                .args(["--extract", "--strip-components=1", "--no-same-owner", "--file"])
                .arg(&archive)
                .arg("--directory")
                .arg(directory),
        )?;
        Ok(())
    }

    fn unpack(&self, archives: &Path, prefix: &Path) -> Result<()> {
        for entry in std::fs::read_dir(archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(prefix))?;
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The file is read before the machine's; what must win is said again.
        command
            .env("APT_CONFIG", &self.configuration)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let here = self.directory.path().display();
        for option in [
            format!("Dir::Etc::sourcelist={here}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::status={here}/status"),
            format!("Dir::State::lists={here}/lists"),
            format!("Dir::Cache={here}"),
            format!("Dir::Cache::archives={here}/archives"),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// apt as root downloads under an account of its own, which must get at the
/// directory; one that only the owner may enter would turn that off.
fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The Debian mirror of this machine's own configuration.
fn mirror() -> String {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
        .output();
    let Ok(listed) = listed else { return FALLBACK_MIRROR.to_owned() };
    mirror_from(&String::from_utf8_lossy(&listed.stdout)).unwrap_or(FALLBACK_MIRROR).to_owned()
}

/// The first site that serves a plain Debian release (not its security updates).
fn mirror_from(targets: &str) -> Option<&str> {
    const RELEASES: [&str; 6] = ["bookworm", "trixie", "forky", "stable", "testing", "sid"];
    targets.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next(), fields.next()) {
            (Some(site), Some(release), Some("main")) if RELEASES.contains(&release) => Some(site),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_with_security_first_takes_the_release() {
        let targets = "http://a/debian-security bookworm-security main\nhttp://b/debian bookworm main\n";
        assert_eq!(mirror_from(targets), Some("http://b/debian"));
    }

    #[test]
    fn mirror_of_another_distribution_is_none() {
        assert_eq!(mirror_from("http://archive.ubuntu.com/ubuntu noble main\n"), None);
    }
}
