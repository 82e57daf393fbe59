//! Redis as a cluster and behind sentinels.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::RunDir;
use crate::ports::Port;
use crate::process::Process;
use crate::redis::{Redis, cli};
use crate::tools;
use crate::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

/// A Redis cluster on loopback, all slots assigned.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    masters: usize,
}

impl RedisCluster {
    /// Starts `masters` (at least 3) with `replicas` each and waits until every node says the cluster is ok. Masters
    /// come first in [`RedisCluster::node`]. A dead master is replaced after about a second.
    ///
    /// # Errors
    /// Redis is missing (the message says what to install) or the cluster does not form.
    pub fn start(masters: usize, replicas: usize) -> Result<Self> {
        if masters < 3 {
            bail!("a Redis cluster needs at least 3 masters, not {masters}");
        }
        let args =
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"];
        let pair = || Port::claim_pair(10_000).map(|(port, bus)| (port, Some(bus)));
        let count = masters * (replicas + 1);
        let nodes = (0..count).map(|_| Redis::start_on(&args, pair)).collect::<Result<Vec<_>>>()?;
        let output = Command::new(tools::redis_cli()?)
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|n| format!("127.0.0.1:{}", n.port())))
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .context("cannot run redis-cli")?;
        if !output.status.success() {
            bail!("redis-cli --cluster create: {}", String::from_utf8_lossy(&output.stdout));
        }
        let cluster = Self { nodes, masters };
        cluster.wait_ok()?;
        Ok(cluster)
    }

    /// Waits until every living node says `cluster_state:ok` and knows every other one.
    ///
    /// # Errors
    /// Not within 30 s.
    pub fn wait_ok(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|n| n.running().is_ok()) {
            wait_for("the cluster to be ok", LIMIT, || {
                let info = cli(node.port(), &["CLUSTER", "INFO"]).map_err(|e| e.to_string())?;
                let known = format!("cluster_known_nodes:{}", self.nodes.len());
                let ok = info.contains("cluster_state:ok") && info.contains(&known);
                if ok { Ok(()) } else { Err(info) }
            })?;
        }
        Ok(())
    }

    /// Waits until a replica stands in for each master that was killed, and every living node says that the cluster is ok.
    ///
    /// # Errors
    /// Not within 30 s.
    pub fn wait_replaced(&self) -> Result<()> {
        let mut living = self.nodes.iter().filter(|n| n.running().is_ok());
        living.try_for_each(|node| {
            wait_for("promoted replicas", LIMIT, || {
                let info = cli(node.port(), &["CLUSTER", "INFO"]).map_err(|e| e.to_string())?;
                let nodes = cli(node.port(), &["CLUSTER", "NODES"]).map_err(|e| e.to_string())?;
                let masters = nodes.lines().filter(|l| l.contains("master") && !l.contains("fail")).count();
                let replaced = masters == self.masters && info.contains("cluster_state:ok");
                if replaced { Ok(()) } else { Err(nodes) }
            })
        })
    }

    /// One URL per node, as cluster clients take them.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// The number of masters at the start.
    #[must_use]
    pub fn masters(&self) -> usize {
        self.masters
    }

    /// All nodes, the first masters first.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// A node to hurt.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&mut self, index: usize) -> &mut Redis {
        &mut self.nodes[index]
    }

    /// Removes every key on every living master.
    ///
    /// # Errors
    /// A master does not answer.
    pub fn flush(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|n| n.running().is_ok()) {
            if node.command(&["ROLE"])?.starts_with("master") {
                node.flush()?;
            }
        }
        Ok(())
    }
}

/// The name under which the sentinels know their master.
const MASTER_NAME: &str = "sluice";

/// A master, a replica and three sentinels on loopback; a dead master is replaced after about a second.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<Redis>,
    sentinels: Vec<(Process, Port)>,
    _dirs: Vec<RunDir>,
}

impl RedisSentinel {
    /// Starts all five and waits until each sentinel knows the replica and the other sentinels.
    ///
    /// # Errors
    /// Redis is missing (the message says what to install) or the group does not form.
    pub fn start() -> Result<Self> {
        let master = Redis::start_with(&["--repl-diskless-sync-delay", "0"])?;
        let port = master.port().to_string();
        let replica = Redis::start_with(&[
            "--replicaof",
            &format!("127.0.0.1 {port}"),
            "--repl-diskless-sync-delay",
            "0",
        ])?;
        wait_for("the replica to follow", LIMIT, || {
            let info = replica.command(&["INFO", "replication"]).map_err(|e| e.to_string())?;
            if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
        })?;
        let (mut sentinels, mut dirs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (own, dir) = (Port::claim()?, RunDir::create("sentinel")?);
            let file = dir.path().join("sentinel.conf");
            let text = format!(
                "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER_NAME} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {MASTER_NAME} 700\nsentinel failover-timeout {MASTER_NAME} 3000\n",
                own.number(),
                dir.path().display()
            );
            fs::write(&file, text).context("cannot write sentinel.conf")?;
            let args = [file.display().to_string(), "--sentinel".to_owned()];
            let log = dir.path().join("sentinel.log");
            let process = Process::spawn(&tools::redis_server()?, &args, dir.path(), &log)?;
            sentinels.push((process, own));
            dirs.push(dir);
        }
        let group = Self { servers: vec![master, replica], sentinels, _dirs: dirs };
        group.wait_complete()?;
        Ok(group)
    }

    fn wait_complete(&self) -> Result<()> {
        for (process, port) in &self.sentinels {
            wait_for("the sentinels to know each other", LIMIT, || {
                let reply =
                    cli(port.number(), &["SENTINEL", "CKQUORUM", MASTER_NAME]).map_err(|e| e.to_string())?;
                let replicas =
                    cli(port.number(), &["SENTINEL", "REPLICAS", MASTER_NAME]).map_err(|e| e.to_string())?;
                let complete = reply.starts_with("OK 3 usable") && replicas.contains("127.0.0.1:");
                if complete { Ok(()) } else { Err(format!("{reply}\n{replicas}")) }
            })
            .with_context(|| process.log_tail())?;
        }
        Ok(())
    }

    /// The name to ask the sentinels for.
    #[must_use]
    pub fn master_name(&self) -> &'static str {
        MASTER_NAME
    }

    /// One `redis://` URL per sentinel.
    #[must_use]
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(|(_, p)| format!("redis://127.0.0.1:{}/", p.number())).collect()
    }

    /// The port the sentinels name as the master's.
    ///
    /// # Errors
    /// The first sentinel does not answer.
    pub fn master_port(&self) -> Result<u16> {
        let (_, sentinel) = self.sentinels.first().context("no sentinel")?;
        let reply = cli(sentinel.number(), &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME])?;
        let port = reply.lines().nth(1).with_context(|| format!("unexpected reply {reply:?}"))?;
        port.trim().parse().with_context(|| format!("not a port: {port:?}"))
    }

    /// Kills the master once its replica has all that it holds, and waits until every sentinel names the other server and that one is writable.
    /// Returns the new master's port.
    ///
    /// # Errors
    /// No other master within 30 s.
    pub fn fail_over(&mut self) -> Result<u16> {
        let old = self.master_port()?;
        let index =
            self.servers.iter().position(|s| s.port() == old).context("the master is not one of ours")?;
        self.servers[index].wait_replicated()?;
        self.servers[index].kill();
        let others: Vec<u16> = self.servers.iter().map(Redis::port).filter(|p| *p != old).collect();
        wait_for("another master", LIMIT, || {
            for (_, sentinel) in &self.sentinels {
                let reply = cli(sentinel.number(), &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME])
                    .map_err(|e| e.to_string())?;
                if !others.iter().any(|p| reply.lines().nth(1) == Some(p.to_string().as_str())) {
                    return Err(format!("sentinel {} says {reply}", sentinel.number()));
                }
            }
            Ok(())
        })?;
        let new = self.master_port()?;
        wait_for("the new master to be writable", LIMIT, || {
            let role = cli(new, &["ROLE"]).map_err(|e| e.to_string())?;
            if role.starts_with("master") { Ok(()) } else { Err(role) }
        })?;
        Ok(new)
    }

    /// Starts dead servers again and waits until they follow the master, so that another fail-over is possible.
    ///
    /// # Errors
    /// They do not come up or do not follow within 30 s.
    pub fn restore(&mut self) -> Result<()> {
        let master = self.master_port()?;
        for server in self.servers.iter_mut().filter(|s| s.running().is_err()) {
            server.restart()?;
            wait_for("the old master to follow", LIMIT, || {
                server
                    .command(&["REPLICAOF", "127.0.0.1", &master.to_string()])
                    .map_err(|e| e.to_string())?;
                let info = server.command(&["INFO", "replication"]).map_err(|e| e.to_string())?;
                if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
            })?;
        }
        self.wait_complete()
    }

    /// The two servers, the first master first.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_forms_and_replaces_a_dead_master() {
        let mut cluster = RedisCluster::start(3, 1).unwrap();
        assert_eq!(cluster.urls().len(), 6);
        cluster.node(0).kill();
        cluster.wait_replaced().unwrap();
    }

    #[test]
    fn sentinel_group_fails_over_twice() {
        let mut group = RedisSentinel::start().unwrap();
        let first = group.master_port().unwrap();
        cli(first, &["SET", "a", "1"]).unwrap();
        let second = group.fail_over().unwrap();
        assert_ne!(first, second);
        assert_eq!(cli(second, &["GET", "a"]).unwrap(), "1");
        group.restore().unwrap();
        assert_eq!(group.fail_over().unwrap(), first);
    }
}
