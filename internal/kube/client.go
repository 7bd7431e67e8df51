package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Options of a Client.
type Options struct {
	// Kubeconfig is a file, "" for the service account of the pod.
	Kubeconfig string
	// Root is the root directory of the container that has the service account.
	Root string
	// Build is the version of the program.
	Build string
	// Log receives the log of the client library.
	Log *slog.Logger
}

// Client talks to the API server.
type Client struct {
	config *rest.Config
	scheme *runtime.Scheme
}

// serviceAccount is where the kubelet mounts the account of a pod.
const serviceAccount = "var/run/secrets/kubernetes.io/serviceaccount"

// New returns a client. It does not connect.
func New(o Options) (*Client, error) {
	config, err := configOf(o)
	if err != nil {
		return nil, err
	}
	klog.SetSlogLogger(o.Log) // the library has one logger per process
	config.UserAgent = "hostport-agent/" + o.Build
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), appsv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return &Client{config, scheme}, nil
}

func configOf(o Options) (*rest.Config, error) {
	if o.Kubeconfig != "" {
		c, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig: %w", err)
		}
		return c, nil
	}
	// Like rest.InClusterConfig, which supports only the process's own root.
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("no Kubernetes: KUBERNETES_SERVICE_HOST is not set, and no kubeconfig was given")
	}
	dir := filepath.Join("/", o.Root, serviceAccount)
	if _, err := os.Stat(filepath.Join(dir, "token")); err != nil {
		return nil, fmt.Errorf("look for the service account: %w", err)
	}
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "ca.crt")},
		BearerTokenFile: filepath.Join(dir, "token"), // it is read again when renewed
	}, nil
}

// Core returns a client for the API group v1.
func (c *Client) Core() (*rest.RESTClient, error) { return c.rest(corev1.SchemeGroupVersion) }

// rest returns a client for one group of the API.
func (c *Client) rest(gv schema.GroupVersion) (*rest.RESTClient, error) {
	config := rest.CopyConfig(c.config)
	config.GroupVersion, config.APIPath = &gv, "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(c.scheme).WithoutConversion()
	return rest.RESTClientFor(config)
}

// Leaving reports whether a DaemonSet, NAMESPACE/NAME, is being deleted or
// gone. Missing permission counts as gone: when a release is uninstalled, the
// agent's account and permissions are deleted before its pods are terminated.
// So the chart keeps both through every update.
func (c *Client) Leaving(ctx context.Context, daemonSet string) (bool, error) {
	namespace, name, ok := strings.Cut(daemonSet, "/")
	if !ok || namespace == "" || name == "" {
		return false, fmt.Errorf("%q: want NAMESPACE/NAME", daemonSet)
	}
	client, err := c.rest(appsv1.SchemeGroupVersion)
	if err != nil {
		return false, err
	}
	var d appsv1.DaemonSet
	err = client.Get().Namespace(namespace).Resource("daemonsets").Name(name).Do(ctx).Into(&d)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("get DaemonSet %s: %w", daemonSet, err)
	}
	return d.DeletionTimestamp != nil, nil
}
