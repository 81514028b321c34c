//! `outboard discovery`: the files by which management software finds the back ends (QEMU's
//! `docs/interop/vhost-user.json`).

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use outboard_daemon::{DiscoveryError, Program, discovery_json};
use serde_json::Value;

use crate::run::Device;
use crate::stdout;

/// Write the files by which management software finds the back ends
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write them; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Where the programs are installed: an absolute path
    #[arg(long, value_name = "DIR")]
    bindir: PathBuf,
}

/// Writes a file for each device and prints its path.
pub(crate) fn run(args: &Args) -> ExitCode {
    match write(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outboard discovery: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for &device in Device::value_variants() {
        let entry = match device {
            Device::Blk => entry::<outboard_blk::VhostUserBlk>(&args.bindir),
            Device::Console => entry::<outboard_console::VhostUserConsole>(&args.bindir),
            Device::Gpio => entry::<outboard_gpio::VhostUserGpio>(&args.bindir),
            Device::I2c => entry::<outboard_i2c::VhostUserI2c>(&args.bindir),
            Device::Input => entry::<outboard_input::VhostUserInput>(&args.bindir),
            Device::Net => entry::<outboard_net::VhostUserNet>(&args.bindir),
            Device::Rng => entry::<outboard_rng::VhostUserRng>(&args.bindir),
            Device::Scmi => entry::<outboard_scmi::VhostUserScmi>(&args.bindir),
            Device::Vsock => entry::<outboard_vsock::VhostUserVsock>(&args.bindir),
        };
        let path = args.out.join(format!("50-outboard-{}.json", device.name()));
        match entry {
            Ok(entry) => replace(&args.out, &path, &format!("{entry:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?,
            // The schema knows few types: such a device is started by hand.
            Err(DiscoveryError::UnknownType(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        stdout::show(&format!("{}\n", path.display()));
    }
    Ok(())
}

fn entry<P: Program>(bindir: &Path) -> Result<Value, DiscoveryError> {
    discovery_json::<P>(&bindir.join(P::NAME))
}

/// Puts a file in place at once: who reads the directory meanwhile sees the old one or the new one.
fn replace(directory: &Path, path: &Path, text: &str) -> Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".50-outboard-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
