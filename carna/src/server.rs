//! What a node runs, and what its agent sees and wants of it.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Config;
use crate::health::Look;
use crate::kamailio::{Kamailio, Rpc};

/// The server of a node.
#[derive(Debug)]
pub enum Server {
    /// A proxy, which routes by the list of nodes.
    Kamailio(Kamailio),
}

impl Server {
    /// That of a node of this configuration.
    ///
    /// # Errors
    /// Something is missing in the configuration.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self::Kamailio(Kamailio::new(config.node.role, config.asked_at(), config.rpc()?)))
    }

    /// The way to what routes by the list of nodes, if it does.
    pub fn router(&self) -> Option<&Arc<Rpc>> {
        match self {
            Self::Kamailio(kamailio) => Some(kamailio.rpc()),
        }
    }

    /// Looks at it.
    pub async fn look(&self) -> Look {
        match self {
            Self::Kamailio(kamailio) => kamailio.look().await,
        }
    }

    /// Tells it that the node leaves, which the others hear of meanwhile.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn leave(&self) -> Result<()> {
        match self {
            Self::Kamailio(kamailio) => kamailio.leave().await,
        }
    }

    /// Tells it to take nothing new any more.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn refuse(&self) -> Result<()> {
        match self {
            Self::Kamailio(kamailio) => kamailio.refuse().await,
        }
    }
}
