package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// namespace is the only one used: scenes come one after another.
const namespace = "default"

// hostPort is one port of a pod.
func hostPort(protocol corev1.Protocol, host, container int32) corev1.ContainerPort {
	return corev1.ContainerPort{Protocol: protocol, HostPort: host, ContainerPort: container}
}

// answerSpec serves the ports of the mappings, and answers with the pod's name.
func answerSpec(ports ...corev1.ContainerPort) corev1.PodSpec {
	args := []string{"serve"}
	for _, p := range ports {
		args = append(args, fmt.Sprintf("%s:%d", strings.ToLower(string(p.Protocol)), p.ContainerPort))
	}
	return corev1.PodSpec{
		DNSPolicy:                    corev1.DNSDefault,
		AutomountServiceAccountToken: new(bool),
		Containers: []corev1.Container{{
			Name:            "answer",
			Image:           imageName,
			ImagePullPolicy: corev1.PullNever,
			Args:            args,
			Ports:           ports,
			Env: []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"},
			}}},
		}},
	}
}

// answerPod has its name as label app, too.
func answerPod(name string, ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       answerSpec(ports...),
	}
}

// answerDeployment replaces its one pod by ending the old one first: a node
// has each host port once.
func answerDeployment(name string, ports ...corev1.ContainerPort) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &none, MaxUnavailable: &one},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       answerSpec(ports...),
			},
		},
	}
}

// nodePortService leads the node port to the pods labelled app.
func nodePortService(app string, nodePort, target int32) *corev1.Service {
	dual := corev1.IPFamilyPolicyPreferDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeNodePort,
			IPFamilyPolicy: &dual,
			Selector:       map[string]string{"app": app},
			Ports:          []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(target), NodePort: nodePort}},
		},
	}
}

// manifests reads the objects of a file.
func manifests(t *testing.T, path string) []runtime.Object {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var objects []runtime.Object
	documents := yaml.NewDocumentDecoder(file)
	defer documents.Close()
	for {
		buf := make([]byte, 64<<10)
		n, err := documents.Read(buf)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(bytes.TrimSpace(buf[:n]), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		objects = append(objects, object)
	}
}

// create creates the objects; they go when the scene ends.
func (c *cluster) create(t *testing.T, objects ...runtime.Object) {
	t.Helper()
	ctx := t.Context()
	for _, object := range objects {
		var err error
		switch o := object.(type) {
		case *corev1.Pod:
			_, err = c.api.CoreV1().Pods(namespace).Create(ctx, o, metav1.CreateOptions{})
		case *corev1.Service:
			_, err = c.api.CoreV1().Services(namespace).Create(ctx, o, metav1.CreateOptions{})
		case *appsv1.Deployment:
			_, err = c.api.AppsV1().Deployments(namespace).Create(ctx, o, metav1.CreateOptions{})
		default:
			err = errors.New("no scene has made one before")
		}
		if err != nil {
			t.Fatalf("create %T: %v", object, err)
		}
	}
}

// remove deletes pods; with force nobody waits for kubelet.
func (c *cluster) remove(t *testing.T, force bool, names ...string) {
	t.Helper()
	options := metav1.DeleteOptions{}
	if force {
		options.GracePeriodSeconds = new(int64)
	}
	for _, name := range names {
		if err := c.api.CoreV1().Pods(namespace).Delete(t.Context(), name, options); err != nil {
			t.Fatalf("delete pod %s: %v", name, err)
		}
	}
	for _, name := range names {
		c.await(t, "pod "+name+" to be gone", func(ctx context.Context) error {
			return c.absent(ctx, name)
		})
	}
}

func (c *cluster) absent(ctx context.Context, name string) error {
	pods, err := c.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		if p.Name == name {
			return fmt.Errorf("it is there, %s", p.Status.Phase)
		}
	}
	return nil
}

// ready waits for a running pod that was not there before, and returns it.
func (c *cluster) ready(t *testing.T, app string, before ...string) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	c.await(t, "a pod of "+app, func(ctx context.Context) error {
		pods, err := c.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if running(p) == nil && !slices.Contains(before, p.Name) {
				found = p
				return nil
			}
			err = errors.Join(err, running(p))
		}
		return errors.Join(errors.New("none is new and ready"), err)
	})
	return found
}

// running says why a pod is not.
func running(p *corev1.Pod) error {
	if p.DeletionTimestamp != nil {
		return fmt.Errorf("%s is being deleted", p.Name)
	}
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s is %s: %v", p.Name, p.Status.Phase, p.Status.ContainerStatuses)
}

// clear removes what a scene made. It asks again and again: without the
// garbage collector's controller, what a controller makes in the meantime stays. So
// does the EndpointSlice of a Service: the next one of that name would lead to a pod
// that is gone, until the controller has looked at it.
func (c *cluster) clear(t *testing.T) {
	t.Helper()
	c.await(t, "the scene's objects to be gone", func(ctx context.Context) error {
		core, apps := c.api.CoreV1(), c.api.AppsV1()
		options, all := metav1.DeleteOptions{}, metav1.ListOptions{}
		services, err := core.Services(namespace).List(ctx, all)
		if err != nil {
			return err
		}
		for _, s := range services.Items {
			if s.Name != "kubernetes" {
				err = errors.Join(err, core.Services(namespace).Delete(ctx, s.Name, options))
			}
		}
		err = errors.Join(err,
			apps.Deployments(namespace).DeleteCollection(ctx, options, all),
			apps.ReplicaSets(namespace).DeleteCollection(ctx, options, all),
			c.api.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(ctx, options, metav1.ListOptions{
				LabelSelector: discoveryv1.LabelManagedBy + "=endpointslice-controller.k8s.io",
			}),
			core.Pods(namespace).DeleteCollection(ctx, options, all))
		if err != nil {
			return err
		}
		pods, err := core.Pods(namespace).List(ctx, all)
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
}
