"""Nodes of a Kubernetes cluster: a DaemonSet that gives containerd the proxy and the CA, or takes them back."""

from __future__ import annotations

import hashlib
import json
from textwrap import indent

from ca.trust import systemd
from ca.trust.plan import Plan, Wanted

CA = "/etc/mirrortap/ca.crt"
_NO_PROXY = "localhost,127.0.0.1,::1,.svc,.cluster.local"

# Runs on the node, in whatever shell it has. containerd is restarted only when something changed; a restart leaves
# running containers alone. When that fails the drop-in is as before, so that the next try does not find all done.
_PUT = """\
set -eu
put() {
    wanted=$(cat)
    if [ -f "$1" ] && [ "$(cat "$1")" = "$wanted" ]; then return; fi
    mkdir -p "${1%/*}"
    printf '%s\\n' "$wanted" > "$1.new"
    mv "$1.new" "$1"
    changed=yes
}
changed=no
"""
_RESTART = "systemctl daemon-reload && systemctl restart containerd"


def plan(wanted: Wanted) -> Plan:
    script = remove_script() if wanted.remove else node_script(wanted)
    if wanted.remove:
        after = (
            "Apply it, wait until it has run on every node, and delete it:\n"
            "  kubectl apply -f FILE && kubectl -n kube-system rollout status daemonset/mirrortap-trust\n"
            "  kubectl delete -f FILE"
        )
    else:
        after = (
            "Apply it:  kubectl apply -f FILE && kubectl -n kube-system rollout status daemonset/mirrortap-trust\n"
            "It restarts containerd on one node after another; running containers stay. It needs nodes with systemd,\n"
            "a shell and a writable /etc, whose containerd is the unit containerd (not k3s, Talos or Bottlerocket).\n"
            f"Registries inside the cluster are reached past the proxy when they are in NO_PROXY={_NO_PROXY}\n"
            "To undo it, deleting is not enough: mirrortap trust kubernetes --uninstall prints what cleans the nodes."
        )
    return Plan(document=_manifest(script, wanted.image), next=after, undone=after)


def node_script(wanted: Wanted) -> str:
    """For sh, as root, on a node."""
    unit = "\n".join(
        [
            "[Service]",
            f"Environment=HTTPS_PROXY={wanted.proxy}",
            f"Environment=NO_PROXY={_NO_PROXY}",
            f"Environment=SSL_CERT_FILE={CA}",
        ]
    )
    drop_in = systemd.path("containerd")
    return (
        f"{_PUT}"
        f"put {CA} <<'EOF'\n{wanted.pem.decode()}EOF\n"
        f"put {drop_in} <<'EOF'\n{unit}\nEOF\n"
        f"if [ $changed = no ]; then exit; fi\n"
        f"{_RESTART} || {{ rm {drop_in}; exit 1; }}\n"
    )


def remove_script() -> str:
    drop_in = systemd.path("containerd")
    folders = [CA.rpartition("/")[0], drop_in.rpartition("/")[0]]
    return (
        "set -eu\n"
        f"if [ -f {drop_in} ]; then\n"
        f"    mv {drop_in} {drop_in}.old\n"
        f"    {_RESTART} || {{ mv {drop_in}.old {drop_in}; exit 1; }}\n"
        f"    rm {drop_in}.old\n"
        "fi\n"
        f"rm -f {CA}\n"
        f"rmdir {' '.join(folders)} 2>/dev/null || :\n"
    )


def _manifest(script: str, image: str) -> str:
    # The checksum makes the pods anew when the script is another one.
    checksum = hashlib.sha256(script.encode()).hexdigest()
    return f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: mirrortap-trust
  namespace: kube-system
data:
  node.sh: |
{indent(script, "    ")}---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: mirrortap-trust
  namespace: kube-system
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: mirrortap-trust
  template:
    metadata:
      labels:
        app.kubernetes.io/name: mirrortap-trust
      annotations:
        mirrortap/script-sha256: "{checksum}"
    spec:
      hostPID: true
      nodeSelector:
        kubernetes.io/os: linux
      tolerations:
        - operator: Exists
      terminationGracePeriodSeconds: 1
      initContainers:
        - name: node
          image: {json.dumps(image)}
          command: ["sh", "-c", "exec nsenter -t 1 -m -- sh -s < /mirrortap/node.sh"]
          securityContext:
            privileged: true
          volumeMounts:
            - name: script
              mountPath: /mirrortap
              readOnly: true
      containers:
        - name: done
          image: {json.dumps(image)}
          command: ["tail", "-f", "/dev/null"]
      volumes:
        - name: script
          configMap:
            name: mirrortap-trust
"""
