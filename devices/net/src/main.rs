//! The program `vhost-user-net`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run::<outboard_net::VhostUserNet>()
}
