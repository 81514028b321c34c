//! The program `vhost-user-net`.

fn main() -> std::process::ExitCode {
    outboard_daemon::run_housed::<outboard_net::VhostUserNet>()
}
