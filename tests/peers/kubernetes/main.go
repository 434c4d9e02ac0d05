// Real parts of Kubernetes for tests, in one program: `apiserver` is kube-apiserver with an etcd inside it, on
// loopback, with nothing that would act on what it holds (no controllers, no nodes); `kubectl` is kubectl.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// The administrator of every server that this program starts; its door is on loopback alone.
const (
	token      = "administrator"
	tokenLine  = token + ",administrator,administrator,system:masters\n"
	kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:%d", insecure-skip-tls-verify: true}}]
users: [{name: administrator, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: administrator}}]
current-context: test
`
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: %s apiserver|kubectl ARGUMENTS", os.Args[0]))
	}
	part := os.Args[1]
	os.Args = append([]string{part}, os.Args[2:]...)
	switch part {
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	case "apiserver":
		serve()
	default:
		fail(fmt.Errorf("no part %q", part))
	}
}

// serve runs until it is killed. What it holds stays in the folder, so that it can be started again.
func serve() {
	folder := flag.String("dir", "", "where everything is kept")
	port := flag.Int("port", 0, "the API server's port; etcd takes the two that follow it")
	flag.Parse()
	in := func(name string) string { return filepath.Join(*folder, name) }

	storage := embed.NewConfig()
	storage.Dir = in("etcd")
	storage.LogLevel = "error"
	// A crash of the machine would lose data; a crash of this program does not.
	storage.UnsafeNoFsync = true
	clients, peers := loopback(*port+1), loopback(*port+2)
	storage.ListenClientUrls, storage.AdvertiseClientUrls = clients, clients
	storage.ListenPeerUrls, storage.AdvertisePeerUrls = peers, peers
	storage.InitialCluster = storage.InitialClusterFromName(storage.Name)
	etcd, err := embed.StartEtcd(storage)
	fail(err)
	defer etcd.Close()
	<-etcd.Server.ReadyNotify()

	key := in("service-accounts.key")
	if _, err := os.Stat(key); err != nil {
		fresh, err := rsa.GenerateKey(rand.Reader, 2048)
		fail(err)
		block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(fresh)}
		fail(os.WriteFile(key, pem.EncodeToMemory(block), 0o600))
	}
	fail(os.WriteFile(in("tokens.csv"), []byte(tokenLine), 0o600))
	fail(os.WriteFile(in("kubeconfig"), fmt.Appendf(nil, kubeconfig, *port, token), 0o600))

	command := apiserver.NewAPIServerCommand()
	command.SetArgs([]string{
		"--etcd-servers=" + clients[0].String(),
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", *port),
		"--cert-dir=" + in("certificates"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key,
		"--token-auth-file=" + in("tokens.csv"),
		"--authorization-mode=RBAC",
		// Nobody makes ServiceAccounts here.
		"--disable-admission-plugins=ServiceAccount",
		"--endpoint-reconciler-type=none",
	})
	fail(command.ExecuteContext(context.Background()))
}

func loopback(port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
