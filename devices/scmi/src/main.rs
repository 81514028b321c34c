//! The program `vhost-user-scmi`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_scmi::VhostUserScmi>()
}
