//! fio, the usual program to load disks with: built from Debian's source with the engine that drives
//! vhost-user disks through libblkio, which Debian's own build lacks; and once more, static, for guests.
//! The machine's compiler builds it; it runs with the libraries of the packages that it is linked against.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::apt::{Apt, Suite};
use crate::setup::prefix::Prefix;
use crate::setup::{Arch, cached};
use crate::workspace::{Workspace, on_path, output};

/// What it is linked against; the two besides libblkio are taken if this machine can compile for them.
const LIBRARIES: [&str; 3] = ["libblkio-dev", "libaio1t64", "zlib1g"];

/// Engines and libraries that would be taken if this machine had them: nobody else's build would be the same.
const WITHOUT: [&str; 14] = [
    "--disable-native",
    "--disable-numa",
    "--disable-rdma",
    "--disable-rados",
    "--disable-rbd",
    "--disable-http",
    "--disable-gfapi",
    "--disable-libnfs",
    "--disable-pmem",
    "--disable-xnvme",
    "--disable-isal",
    "--disable-libzbc",
    "--disable-tcmalloc",
    "--disable-dfs",
];

/// For the program that runs in guests, where there are no libraries.
const STATIC: [&str; 2] = ["--build-static", "--disable-libblkio"];

/// fio, as it was built into the cache.
#[derive(Debug, Clone)]
pub(crate) struct Fio {
    directory: PathBuf,
}

impl Fio {
    /// What it is called.
    pub(crate) const NAME: &'static str = "fio";

    /// That in the cache; `None` if it was never built.
    pub(crate) fn find(workspace: &Workspace) -> Option<Self> {
        let directory = directory(workspace);
        directory.join("usr/bin/fio").is_file().then_some(Self { directory })
    }

    /// Builds it. Returns whether anything was done.
    pub(super) fn prepare(workspace: &Workspace, refresh: bool, jobs: u8) -> Result<bool> {
        let key = [&LIBRARIES[..], &WITHOUT, &STATIC].concat().join(" ");
        cached(&directory(workspace), &key, refresh, |directory| {
            for tool in ["cc", "make", "pkg-config", "tar"] {
                if !on_path(tool) {
                    bail!("`{tool}` is missing: fio is built here");
                }
            }
            Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?.unpack_closure(&LIBRARIES, directory)?;
            let source = directory.join("source");
            Apt::open_sources(&workspace.cache, Suite::Sid)?.unpack_source("fio", &source)?;
            std::fs::create_dir_all(directory.join("usr/bin"))?;
            let fio = Self { directory: directory.to_path_buf() };
            let libraries = directory.join("usr/lib").join(Arch::X86.multiarch());
            // They may be of a later libc than the one that the compiler links against; they run with their own.
            let link = format!("-L{} -Wl,--unresolved-symbols=ignore-in-shared-libs", libraries.display());
            fio.build(&source, &STATIC, None, &fio.for_guests(), jobs)?;
            fio.build(&source, &[], Some(&link), &directory.join("usr/bin/fio"), jobs)?;
            std::fs::remove_dir_all(source)?;
            let engines = output(fio.command()?.arg("--enghelp"))?;
            if !String::from_utf8_lossy(&engines).contains("libblkio") {
                bail!("fio was built without its engine for libblkio");
            }
            Ok(())
        })
    }

    /// Builds it from `source` into `program`.
    fn build(
        &self,
        source: &Path,
        options: &[&str],
        link: Option<&str>,
        program: &Path,
        jobs: u8,
    ) -> Result<()> {
        let libraries = self.directory.join("usr/lib").join(Arch::X86.multiarch());
        let in_source = |program: &str| {
            let mut command = Command::new(program);
            command
                .current_dir(source)
                .env("PKG_CONFIG_LIBDIR", libraries.join("pkgconfig"))
                .env("PKG_CONFIG_SYSROOT_DIR", &self.directory)
                .env_remove("LDFLAGS");
            command.envs(link.map(|link| ("LDFLAGS", link)));
            command
        };
        output(in_source("sh").arg("./configure").args(WITHOUT).args(options)).context("configuring fio")?;
        output(in_source("make").arg(format!("-j{jobs}")).arg("fio")).context("building fio")?;
        std::fs::copy(source.join("fio"), program)?;
        output(Command::new("strip").arg(program))?;
        // Forgets the options, too.
        output(in_source("make").arg("clean"))?;
        Ok(())
    }

    /// What starts it.
    pub(crate) fn command(&self) -> Result<Command> {
        Prefix::at(&self.directory).command("bin/fio")
    }

    /// Its version, as it tells.
    pub(crate) fn version(&self) -> Result<String> {
        let said = output(self.command()?.arg("--version"))?;
        let said = String::from_utf8_lossy(&said);
        Ok(said.trim().trim_start_matches("fio-").to_owned())
    }

    /// The program for guests: static, without libblkio.
    pub(crate) fn for_guests(&self) -> PathBuf {
        self.directory.join("fio-static")
    }
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("peers").join(Fio::NAME)
}
