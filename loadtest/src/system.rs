//! What Linux tells of processes and sockets: who listens on a port, how much processor time it has had, and which datagrams found no
//! room in a socket's buffer.

use std::collections::BTreeMap;
use std::fs;

/// What Linux reports processor times in, on every platform it runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// A socket that listens, in the tables of TCP sockets.
const LISTENS: &str = "0A";

/// The process that listens on a TCP port of this machine; `None` if there is none, or if it is somebody else's.
pub(crate) fn listener(port: u16) -> Option<u32> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().find_map(|table| listening_inode(table, port))?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .find(|id| has_open(*id, &wanted))
}

fn has_open(process: u32, wanted: &str) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|file| {
        fs::read_link(file.path()).is_ok_and(|link| link.to_str().is_some_and(|link| link == wanted))
    })
}

/// The inode of the socket that listens on a port, by a table of TCP sockets.
fn listening_inode(table: &str, port: u16) -> Option<&str> {
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&LISTENS)).find_map(|row| {
        let own = port_of(row.get(1)?)?;
        (own == port).then(|| row.get(9).copied()).flatten()
    })
}

/// Datagrams that the UDP sockets on a port had no room for, all of them together.
pub(crate) fn datagrams_lost(port: u16) -> u64 {
    let tables =
        ["/proc/net/udp", "/proc/net/udp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().map(|table| drops(table, port)).sum()
}

fn drops(table: &str, port: u16) -> u64 {
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(1).and_then(|address| port_of(address)) == Some(port))
        .filter_map(|row| row.last()?.parse::<u64>().ok())
        .sum()
}

fn port_of(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

/// Seconds of processor time that a process has had, in user mode and in the system; `None` when there is none.
pub(crate) fn processor_seconds(process: u32) -> Option<f64> {
    fs::read_to_string(format!("/proc/{process}/stat")).ok().map(|stat| seconds_in(&stat))
}

/// The same of each of a process's threads, by the name without the number at its end.
pub(crate) fn threads(process: u32) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let folder = thread.path();
        // A thread may end between listing and reading.
        let Ok(name) = fs::read_to_string(folder.join("comm")) else { continue };
        let Ok(stat) = fs::read_to_string(folder.join("stat")) else { continue };
        let name = name.trim_end().trim_end_matches(|end: char| end.is_ascii_digit() || end == '-');
        *sums.entry(name.to_owned()).or_default() += seconds_in(&stat);
    }
    sums
}

/// Seconds in which a processor of this machine had nothing to do, of all of them together.
pub(crate) fn idle_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // cpu user nice system idle iowait …
    let mut fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(4);
    fields.next().and_then(|idle| idle.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_SECOND
}

/// The sum of both times in a `stat` of a process or thread.
pub(crate) fn seconds_in(stat: &str) -> f64 {
    // Fields are counted behind the name, which may hold anything.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = fields.get(11..13).unwrap_or_default().iter();
    ticks.map(|field| field.parse::<f64>().unwrap_or(0.0) / TICKS_PER_SECOND).sum()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_listener_of_a_port_is_found_and_has_had_a_processor() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(super::listener(port), Some(std::process::id()));
        assert!(processor_seconds(std::process::id()).is_some());
        drop(listener);
        assert_eq!(super::listener(port), None);
    }

    #[test]
    fn rows_are_read_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  0 0 11 1\n   \
                     1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 22 1\n";
        assert_eq!(listening_inode(table, 0x1F90), Some("22"));
        assert_eq!(listening_inode(table, 80), None);
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
                     7: 00000000:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 33 2 0 41\n \
                     8: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 34 2 0 1\n \
                     9: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 35 2 0 9\n";
        assert_eq!(drops(table, 0x1F90), 42);
    }

    #[test]
    fn a_datagram_beyond_the_buffer_of_its_socket_is_counted() {
        let (here, there) = (
            UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            UdpSocket::bind("127.0.0.1:0").expect("a socket"),
        );
        let to = here.local_addr().expect("an address");
        assert_eq!(datagrams_lost(to.port()), 0);
        nix::sys::socket::setsockopt(&here, nix::sys::socket::sockopt::RcvBuf, &1).expect("a small buffer");
        for _ in 0..1000 {
            there.send_to(&[0; 400], to).expect("sent");
        }
        assert!(datagrams_lost(to.port()) > 0);
    }

    #[test]
    fn times_are_read_behind_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(seconds_in(stat), 2.0);
    }
}
