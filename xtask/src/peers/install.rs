//! `cargo xtask peers`: fetches the back ends of others into the cache, each into
//! a directory of its own. Nothing is installed on the machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;

use super::{Fio, Peer, Source};
use crate::setup::apt::{Apt, Suite};
use crate::setup::{Arch, announced, cached, prefix, require_host};
use crate::workspace::{Workspace, output};

/// What virtiofsd is linked against, from the oldest Debian here, so that the
/// program runs with any later libc.
const LIBRARIES: [&str; 2] = ["libseccomp-dev", "libcap-ng-dev"];

/// What to fetch.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Fetch only this one (may be repeated)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    only: Vec<String>,
    /// Fetch everything again
    #[arg(long)]
    refresh: bool,
    /// How many compilers may run at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: u8,
}

/// Everything that can be fetched.
fn names() -> impl Iterator<Item = &'static str> {
    Peer::ALL.into_iter().map(Peer::name).chain([Fio::NAME])
}

/// Fetches the chosen peers, and the program that measures them; quick when there is nothing to do.
pub(crate) fn install(workspace: &Workspace, options: &Options) -> Result<()> {
    require_host()?;
    std::fs::create_dir_all(workspace.cache.join("peers"))?;
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    for peer in Peer::ALL.into_iter().filter(|peer| is_chosen(peer.name())) {
        announced(peer.name(), || prepare(workspace, peer, options))
            .with_context(|| format!("fetching {}", peer.name()))?;
    }
    if is_chosen(Fio::NAME)
        && let Err(error) = announced(Fio::NAME, || Fio::prepare(workspace, options.refresh, options.jobs))
    {
        if !options.only.is_empty() {
            return Err(error.context("building fio"));
        }
        // Others can be compared without it.
        println!("  fio: not there, so `cargo xtask bench` measures with our own front end: {error:#}");
    }
    Ok(())
}

/// Fetches testpmd; quick when there is nothing to do.
pub(crate) fn install_testpmd(workspace: &Workspace) -> Result<()> {
    let only = vec![Peer::DpdkTestpmd.name().to_owned()];
    install(workspace, &Options { only, ..Options::default() })
}

fn prepare(workspace: &Workspace, peer: Peer, options: &Options) -> Result<bool> {
    let directory = peer.directory(workspace);
    match peer.source() {
        Source::Qemu(version) => prefix::prepare(workspace, version, options.refresh),
        Source::Debian(packages) => {
            let key = format!("{} {}", Suite::Trixie.name(), packages.join(" "));
            cached(&directory, &key, options.refresh, |directory| {
                Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?.unpack_closure(packages, directory)
            })
        }
        Source::Crate(version) => cached(&directory, version, options.refresh, |directory| {
            let environment = match peer {
                Peer::Virtiofsd => for_virtiofsd(workspace, directory)?,
                Peer::VhostDeviceGpio => for_gpio(workspace, directory)?,
                _ => Vec::new(),
            };
            build(workspace, peer, version, directory, environment, options.jobs)
        }),
    }
}

/// Variables, and their values.
type Environment = Vec<(&'static str, OsString)>;

/// Builds a program from the crates registry, with the versions of its
/// dependencies that its authors locked.
fn build(
    workspace: &Workspace,
    peer: Peer,
    version: &str,
    directory: &Path,
    environment: Environment,
    jobs: u8,
) -> Result<()> {
    let scratch = directory.join("build");
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", "--quiet", "--locked", "--no-track", "--root"])
        .arg(directory)
        .arg("--target-dir")
        .arg(&scratch)
        .arg(format!("--jobs={jobs}"))
        .args([peer.name(), "--version", version])
        // Ours are not theirs.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(environment);
    output(&mut cargo)?;
    std::fs::remove_dir_all(scratch)?;
    Ok(())
}

fn for_virtiofsd(workspace: &Workspace, directory: &Path) -> Result<Environment> {
    let libraries = static_libraries(workspace, directory)?;
    Ok(vec![
        ("RUSTFLAGS", format!("-Lnative={}", libraries.display()).into()),
        ("LIBSECCOMP_LINK_TYPE", "static".into()),
        ("LIBSECCOMP_LIB_PATH", libraries.into()),
    ])
}

/// It reads the headers of libgpiod 2 by libclang, and is linked to the library, which this Debian may not have: it is
/// built of its source, and no other program needs it.
fn for_gpio(workspace: &Workspace, directory: &Path) -> Result<Environment> {
    let source = directory.join("source");
    Apt::open_sources(&workspace.cache, Suite::Trixie)?.unpack_source("libgpiod", &source)?;
    let library = directory.join("library");
    std::fs::create_dir_all(&library)?;
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(source.join("lib"))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "c") {
            let object = library.join(file.file_name().unwrap_or_default()).with_extension("o");
            let mut compiler = Command::new("cc");
            compiler.args(["-O2", "-fPIC", "-D_GNU_SOURCE", "-DGPIOD_VERSION_STR=\"2\"", "-c"]);
            output(compiler.arg("-I").arg(source.join("include")).arg(&file).arg("-o").arg(&object))?;
            objects.push(object);
        }
    }
    output(Command::new("ar").arg("rcs").arg(library.join("libgpiod.a")).args(objects))?;
    let clang = directory.join("clang");
    let packages = ["libclang1-14", "libclang-common-14-dev"];
    Apt::open(&workspace.cache, Suite::Bookworm, Arch::X86)?.unpack_closure(&packages, &clang)?;
    let libraries = clang.join("usr/lib").join(Arch::X86.multiarch());
    let headers = prefix::Prefix::at(&clang).find("lib/llvm-14/lib/clang/14.0.6/include")?;
    Ok(vec![
        ("SYSTEM_DEPS_LIBGPIOD_NO_PKG_CONFIG", "1".into()),
        ("SYSTEM_DEPS_LIBGPIOD_LIB", "gpiod".into()),
        ("SYSTEM_DEPS_LIBGPIOD_LINK", "static".into()),
        ("SYSTEM_DEPS_LIBGPIOD_SEARCH_NATIVE", library.into()),
        ("SYSTEM_DEPS_LIBGPIOD_INCLUDE", source.join("include").into()),
        ("LIBCLANG_PATH", libraries.clone().into()),
        ("LD_LIBRARY_PATH", libraries.into()),
        ("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{}", headers.display()).into()),
    ])
}

/// A directory with nothing but the static libraries that virtiofsd needs: with
/// the shared ones beside them, the linker would take those.
fn static_libraries(workspace: &Workspace, directory: &Path) -> Result<PathBuf> {
    let unpacked = directory.join("unpacked");
    Apt::open(&workspace.cache, Suite::Bookworm, Arch::X86)?.unpack_closure(&LIBRARIES, &unpacked)?;
    let libraries = directory.join("libraries");
    std::fs::create_dir_all(&libraries)?;
    for name in ["libseccomp.a", "libcap-ng.a"] {
        let found = prefix::Prefix::at(&unpacked).find(&format!("lib/{}/{name}", Arch::X86.multiarch()))?;
        std::fs::copy(found, libraries.join(name))?;
    }
    std::fs::remove_dir_all(unpacked)?;
    Ok(libraries)
}
