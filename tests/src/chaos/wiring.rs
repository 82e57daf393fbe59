//! Lines between pods and what they reach.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use sluice_test_env::{Kafka, KafkaListener, KafkaOptions, Port, Redis};

use crate::edge::EdgeOptions;
use crate::line::Line;

use super::junction::{Junction, Listeners};

/// What a pod reaches over a line of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaches {
    /// The store.
    Redis,
    /// The bus.
    Kafka,
}

/// Servers that pods reach over lines, which a test can hurt for one pod and not for another.
#[derive(Debug)]
pub struct Wiring {
    redis: SocketAddr,
    /// Where each pod's line ends, and the port where it begins, which Kafka tells its clients: one for each pod there will ever be.
    kafka: Vec<(SocketAddr, u16)>,
    listeners: Listeners,
}

impl Wiring {
    /// A Kafka of one node for so many pods on lines.
    ///
    /// # Errors
    /// It does not start.
    pub fn kafka(pods: usize) -> Result<Kafka> {
        let listener =
            |pod| KafkaListener { name: format!("POD{pod}"), protocol: "PLAINTEXT".into(), apart: true };
        Kafka::start(KafkaOptions { listeners: (0..pods).map(listener).collect(), ..KafkaOptions::default() })
    }

    /// Pods reach this Redis over lines, and this Kafka, too, if it was started by [`Wiring::kafka`]: each pod over one more of its
    /// listeners.
    ///
    /// # Errors
    /// An address cannot be read.
    pub fn new(redis: &Redis, kafka: Option<&Kafka>) -> Result<Self> {
        let listener = |pod: usize| {
            let name = format!("POD{pod}");
            let (kafka, told) = (kafka?, kafka?.advertised(&name)?);
            Some(kafka.listener(&name).parse().map(|address| (address, told)))
        };
        let kafka = (0..).map_while(listener).collect::<Result<_, _>>().context("no address of Kafka")?;
        Ok(Self { redis: (Ipv4Addr::LOCALHOST, redis.port()).into(), kafka, listeners: Listeners::default() })
    }

    /// The lines of the pod with this number, and its settings with them.
    pub(super) fn pod(&self, number: usize, options: EdgeOptions) -> Result<(EdgeOptions, Lines)> {
        let listens = Port::claim()?;
        self.listeners.add(number, listens.number());
        let peers = Junction::start((Ipv4Addr::LOCALHOST, listens.number()).into(), self.listeners.clone())?;
        let redis = Line::start(self.redis)?;
        let kafka = self.kafka.get(number).map(|&(server, told)| Line::at(told, server)).transpose()?;
        let mut options = options
            .with("edge.cluster.listen", format!("127.0.0.1:{}", listens.number()))
            .with("edge.cluster.advertise", peers.address().to_string())
            .with("store.redis.urls", vec![format!("redis://{}", redis.address())]);
        if let Some(line) = &kafka {
            options = options.with("bus.brokers", vec![line.address().to_string()]);
        }
        Ok((options, Lines { redis, kafka, peers, _listens: listens }))
    }
}

/// A pod's lines.
#[derive(Debug)]
pub(super) struct Lines {
    redis: Line,
    kafka: Option<Line>,
    /// Where the others reach it.
    peers: Junction,
    _listens: Port,
}

impl Lines {
    pub(super) const fn to(&self, reaches: Reaches) -> Option<&Line> {
        match reaches {
            Reaches::Redis => Some(&self.redis),
            Reaches::Kafka => self.kafka.as_ref(),
        }
    }

    /// Where the others reach the pod.
    pub(super) const fn peers(&self) -> &Junction {
        &self.peers
    }
}
