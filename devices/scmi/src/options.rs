//! The command line of the SCMI device. Trusted: it comes from whoever starts the program.

use std::path::PathBuf;

use outboard_daemon::DriveArgs;

/// What the guest sees.
#[derive(clap::Args, Clone, Debug)]
pub struct ScmiOptions {
    /// What the guest sees and may do, and where it comes from: a TOML file
    /// [default: one simulated thing of each kind, and two sensors]
    #[arg(long, value_name = "FILE")]
    pub description: Option<PathBuf>,

    /// Where the attributes lie that the description names
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,

    /// Offer no notifications
    #[arg(long)]
    pub no_notify: bool,

    /// How what is simulated is driven
    #[command(flatten)]
    pub driven: DriveArgs,
}
