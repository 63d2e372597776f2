//! What a node runs, and what its agent sees and wants of it.

use std::sync::Arc;

use anyhow::Result;

use crate::config::Config;
use crate::health::Look;
use crate::kamailio::{Kamailio, Rpc};
use crate::log::record::Service;
#[cfg(feature = "media")]
use crate::media::FreeSwitch;
use fleet::Role;

/// The server of a node.
#[derive(Debug)]
pub enum Server {
    /// A proxy, which routes by the list of nodes.
    Kamailio(Kamailio),
    /// One side of calls, with their audio.
    #[cfg(feature = "media")]
    FreeSwitch(FreeSwitch),
}

impl Server {
    /// That of a node of this configuration, whose name this is. To be called in a runtime.
    ///
    /// # Errors
    /// Something is missing in the configuration.
    pub fn new(config: &Config, name: &str) -> Result<Self> {
        if config.node.role == Role::Media {
            return Self::media(config, name);
        }
        Ok(Self::Kamailio(Kamailio::new(config.node.role, config.asked_at(), config.rpc()?)))
    }

    /// Whose lines are what it writes.
    pub fn service(&self) -> Service {
        match self {
            Self::Kamailio(_) => Service::Kamailio,
            #[cfg(feature = "media")]
            Self::FreeSwitch(_) => Service::FreeSwitch,
        }
    }

    #[cfg(feature = "media")]
    fn media(config: &Config, name: &str) -> Result<Self> {
        FreeSwitch::new(config, name).map(Self::FreeSwitch)
    }

    #[cfg(not(feature = "media"))]
    fn media(_: &Config, _: &str) -> Result<Self> {
        anyhow::bail!("this Carna was built without the feature media")
    }

    /// The way to what routes by the list of nodes, if it does.
    pub fn router(&self) -> Option<&Arc<Rpc>> {
        match self {
            Self::Kamailio(kamailio) => Some(kamailio.rpc()),
            #[cfg(feature = "media")]
            Self::FreeSwitch(_) => None,
        }
    }

    /// Looks at it.
    pub async fn look(&self) -> Look {
        match self {
            Self::Kamailio(kamailio) => kamailio.look().await,
            #[cfg(feature = "media")]
            Self::FreeSwitch(freeswitch) => freeswitch.look().await,
        }
    }

    /// Tells it that the node leaves, which the others hear of meanwhile.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn leave(&self) -> Result<()> {
        match self {
            Self::Kamailio(kamailio) => kamailio.leave().await,
            // Who hears of it sends nothing new.
            #[cfg(feature = "media")]
            Self::FreeSwitch(_) => Ok(()),
        }
    }

    /// Tells it to take nothing new any more.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn refuse(&self) -> Result<()> {
        match self {
            Self::Kamailio(kamailio) => kamailio.refuse().await,
            #[cfg(feature = "media")]
            Self::FreeSwitch(freeswitch) => freeswitch.refuse().await,
        }
    }

    /// Tells it to end, now that it has nothing to do. Gives whether it has a command for that; otherwise a signal tells it.
    ///
    /// # Errors
    /// It does not take the command.
    pub async fn end(&self) -> Result<bool> {
        match self {
            Self::Kamailio(_) => Ok(false),
            #[cfg(feature = "media")]
            Self::FreeSwitch(freeswitch) => freeswitch.end().await.map(|()| true),
        }
    }

    /// Sees to it that what was learnt from it is not lost when this process ends.
    pub async fn close(&self) {
        match self {
            Self::Kamailio(_) => {}
            #[cfg(feature = "media")]
            Self::FreeSwitch(freeswitch) => freeswitch.close().await,
        }
    }
}
