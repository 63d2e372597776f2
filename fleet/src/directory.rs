//! Where in ZooKeeper the nodes are: `ROOT/ROLE/NAME`. What they have to do is at `ROOT-load/ROLE/NAME`: that changes all the time, and
//! whoever watches `ROOT` does not hear of it.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::load::Load;
use crate::node::{Announcement, NodeId, Role};

/// What a node has published, or a sentence about what is wrong with it; `None` when it is not there.
pub type Published = Option<Result<Announcement, String>>;

/// All nodes under a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    root: String,
}

impl Directory {
    /// Under this path, such as `/carna`.
    pub fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    /// The path under which they all are.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The path of a node.
    pub fn path(&self, id: &NodeId) -> String {
        format!("{}/{}/{}", self.root, id.role, id.name)
    }

    /// The path of what a node has to do.
    pub fn load_path(&self, id: &NodeId) -> String {
        format!("{}-load/{}/{}", self.root, id.role, id.name)
    }

    /// The node whose path this is.
    pub fn id(&self, path: &str) -> Option<NodeId> {
        let (role, name) = path.strip_prefix(&self.root)?.strip_prefix('/')?.split_once('/')?;
        let role = Role::ALL.into_iter().find(|one| one.name() == role)?;
        (!name.contains('/')).then(|| NodeId { role, name: name.to_owned() })
    }

    /// Makes sure that nodes of all roles can be published.
    ///
    /// # Errors
    /// ZooKeeper does not do it.
    pub async fn make(&self, client: &Client) -> Result<(), Error> {
        let directory = CreateMode::Persistent.with_acls(Acls::anyone_all());
        for role in Role::ALL {
            for path in [format!("{}/{role}", self.root), format!("{}-load/{role}", self.root)] {
                match client.mkdir(&path, &directory).await {
                    Ok(()) | Err(Error::NodeExists) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// All that are there, whatever they hold.
    ///
    /// # Errors
    /// ZooKeeper does not tell.
    pub async fn list(&self, client: &Client) -> Result<Vec<NodeId>, Error> {
        let of = |role: Role| async move {
            let names = match client.list_children(&format!("{}/{role}", self.root)).await {
                Err(Error::NoNode) => Vec::new(),
                other => other?,
            };
            Ok::<_, Error>(names.into_iter().map(move |name| NodeId { role, name }))
        };
        Ok(try_join_all(Role::ALL.map(of)).await?.into_iter().flatten().collect())
    }

    /// What these nodes have published, each with its id; asked for all at once.
    ///
    /// # Errors
    /// ZooKeeper does not tell.
    pub async fn read(&self, client: &Client, ids: Vec<NodeId>) -> Result<Vec<(NodeId, Published)>, Error> {
        let found = try_join_all(ids.iter().map(|id| self.get(client, id))).await?;
        Ok(ids.into_iter().zip(found).collect())
    }

    /// What these nodes have to do, as far as they say; asked for all at once.
    ///
    /// # Errors
    /// ZooKeeper does not tell.
    pub async fn loads(&self, client: &Client, ids: Vec<NodeId>) -> Result<BTreeMap<NodeId, Load>, Error> {
        let found = try_join_all(ids.iter().map(|id| self.load(client, id))).await?;
        Ok(ids.into_iter().zip(found).filter_map(|(id, load)| Some((id, load?))).collect())
    }

    async fn load(&self, client: &Client, id: &NodeId) -> Result<Option<Load>, Error> {
        match client.get_data(&self.load_path(id)).await {
            Ok((published, _)) => Ok(Load::parse(&published)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, client: &Client, id: &NodeId) -> Result<Published, Error> {
        match client.get_data(&self.path(id)).await {
            Ok((published, _)) => Ok(Some(Announcement::parse(id.role, &id.name, &published))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_a_node_or_of_none() {
        let directory = Directory::new("/carna");
        let id = NodeId { role: Role::LoadBalancer, name: "lb-1".to_owned() };
        assert_eq!(directory.path(&id), "/carna/load-balancer/lb-1");
        assert_eq!(directory.load_path(&id), "/carna-load/load-balancer/lb-1");
        assert_eq!(directory.id("/carna/load-balancer/lb-1"), Some(id));
        for path in [
            "/carna",
            "/carna/load-balancer",
            "/carna/proxy/p1",
            "/carna/media/m1/load",
            "/carna-load/media/m1",
            "/other/media/m1",
            "",
        ] {
            assert_eq!(directory.id(path), None, "{path}");
        }
    }
}
