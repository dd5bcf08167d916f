layout(location = 0) out vec4 out_color;

void main() {
    vec4 base = base_color();
    if (beyond_triangle()) discard;
    out_color = vec4(shade(base.rgb, facing_normal()) * base.a, base.a);
}
